"""What all tests share: a real model, loaded once, a small random one in a folder, and the record of what was tried.

`./runme.sh test` runs them in a few processes, a file in one of them (pytest-xdist); each has its own real model, its own
folders and its own ports.
"""

import os
import signal
import threading

import pytest
import torch
import transformers
from families import FAMILIES
from hypothesis import HealthCheck, is_hypothesis_test, settings
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import ROOT
from helpers.app import server
from helpers.models.load import LanguageModel, load_model, read_model
from helpers.words.machine import cores, free_memory_bytes

GOLDEN = ROOT / "tests" / "golden.csv"
MOST_WORKERS, WORKER_BYTES = 4, 2 << 30


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes, and only those")


def pytest_configure(config):
    """Obey Ctrl-C: what a script starts in the background ignores it, and so would the processes that tests start.

    Of several processes, each computes with one thread, and tries ports of its own. Random settings are few in the fast
    tier, many in the slow one.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that are started next
    examples = 400 if config.getoption("slow") else 40
    settings.register_profile("tier", max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("tier")
    server.FIRST_PORT += server.PORTS * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def pytest_xdist_auto_num_workers() -> int:
    """Count what a machine has room for: a process takes a core and some memory."""
    return max(1, min(MOST_WORKERS, cores(), free_memory_bytes() // WORKER_BYTES))


def pytest_collection_modifyitems(config, items):
    """Keep one tier's tests; those with random settings are in both."""
    slow = config.getoption("--slow")

    def is_in(item) -> bool:
        return ("slow" in item.keywords) == slow or slow and is_hypothesis_test(getattr(item, "obj", None))

    config.hook.pytest_deselected(items=[item for item in items if not is_in(item)])
    items[:] = [item for item in items if is_in(item)]


STATUS = ROOT / "tests" / "STATUS.md"
SOURCES = {  # where a model can come from -> what this project's machines have not tried of it
    "catalogue": "",
    "folder of safetensors": "",
    "GGUF file": "",
    "hub id": "the real hub (a local stand-in was)",
    "GGUF file on the hub": "the real hub (a local stand-in was)",
    "revision": "the real hub (a local stand-in was)",
    "gated or missing hub model": "the real hub (a local stand-in was)",
    "adapter": "adapters other than LoRA",
    "trust_remote_code": "",
    "allow_pickle": "",
    "device_map": "several GPUs, a GPU with CPU offload (blocks on CPU and disk were)",
    "quantization": "a GPU (4 and 8 bits on a CPU were, where bitsandbytes is installed)",
}
outcomes: dict[tuple[str, str], str] = {}


@pytest.fixture
def status(request):
    """Say which row of STATUS.md a test stands for: status("family", name) or status("source", name)."""
    return lambda kind, name: request.node.user_properties.append((kind, name))


def pytest_runtest_logreport(report):
    for row in map(tuple, report.user_properties):  # lists, where another process tells of it
        if row[0] in ("family", "source") and (report.when == "call" or report.outcome != "passed"):
            worse = {outcomes.get(row), report.outcome} & {"failed", "skipped"}
            outcomes[row] = "failed" if "failed" in worse else "skipped" if worse else "passed"


def pytest_sessionfinish(session):
    """Write what this run has tried into its rows of STATUS.md; the other rows stay as earlier runs have left them."""
    if not outcomes or hasattr(session.config, "workerinput"):  # of several processes, the first one hears of all tests
        return
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    rows = {cells[0]: cells for line in lines if len(cells := line.strip("| ").split(" | ")) > 1}
    families, sources = [], []
    for name, (kind, _, _) in FAMILIES.items():
        _, _, version, outcome = rows.get(name, ["", "", "", "not tried"])
        if ("family", name) in outcomes:
            version, outcome = transformers.__version__, outcomes["family", name]
        families.append(f"| {name} | `{kind}` | {version} | {outcome} |")
    for name, untried in SOURCES.items():
        outcome = outcomes.get(("source", name)) or rows.get(name, ["", "not tried"])[1]
        sources.append(f"| {name} | {outcome} | {untried} |")
    lines = [
        "# What was tried",
        "",
        "Written by runs of the tests (`./runme.sh test`, and with `--slow`), not by hand. A family passes when, on a",
        "small random model of it, block input + attention_output + mlp_output = hidden_state, a patch touches only",
        "its position, a patch of the same vector changes nothing, captures in batches equal single ones,",
        "and every interpretation equals the reference's (`tests/reference.py`), token for token in float32.",
        "",
        "| family | transformers' name | transformers | |",
        "| --- | --- | --- | --- |",
        *families,
        "",
        "| a model from | | not tried |",
        "| --- | --- | --- |",
        *sources,
        "",
    ]  # fmt: skip
    text = "\n".join(lines)
    if not STATUS.exists() or STATUS.read_text() != text:
        STATUS.write_text(text)


@pytest.fixture(scope="session")
def lm() -> LanguageModel:
    return load_model("smollm2-135m")


@pytest.fixture(scope="session")
def card() -> LanguageModel:
    """The real model's config and tokenizer: a plan needs no weights."""
    return read_model("smollm2-135m")


@pytest.fixture(scope="session")
def tiny_folder(lm, tmp_path_factory):
    """A Llama of three blocks with random weights and SmolLM2's tokenizer, as safetensors."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder) -> LanguageModel:
    return load_model(str(tiny_folder))


@pytest.fixture(scope="module")
def no_runs(tmp_path_factory):
    """Hide what earlier runs have left, so that the application reads everything anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helpers.runs.ledger.WORK", tmp_path_factory.mktemp("work"))
        yield


@pytest.fixture
def few_resamples(monkeypatch):
    """Draw less often for intervals and tests: made-up readings are far from any threshold."""
    for module, few in (("judging.chance", 1999), ("judging.effects", 1999), ("experiments.how_sure", 100)):
        monkeypatch.setattr(f"helpers.{module}.RESAMPLES", few)


@pytest.fixture
def held(monkeypatch):
    """Hold the application's desk after the first batch of each request, until this event is set."""
    from helpers.app.desk import Desk

    let_go, take = threading.Event(), Desk._take
    monkeypatch.setattr(Desk, "_take", lambda *given: (let_go.wait(300), take(*given)))
    yield let_go
    let_go.set()


@pytest.fixture
def compiler():
    """Skip where torch can't compile: without a C++ compiler, or in a folder with a space in its path."""
    from helpers.engine.compile import compile_blocks

    try:
        compile_blocks([])
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(40))
    except Exception as error:
        pytest.skip(f"torch can't compile here: {str(error)[:100]}")


def count_hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture(autouse=True)
def no_hook_is_left(request):
    """Check that every test leaves as many hooks on its models as it found."""
    models = [request.getfixturevalue(name).model for name in ("lm", "tiny") if name in request.fixturenames]
    before = [count_hooks(model) for model in models]
    yield
    assert [count_hooks(model) for model in models] == before
