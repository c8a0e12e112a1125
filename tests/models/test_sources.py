"""Where a model can come from: each kind of source with real files; the hub with a stand-in for the network."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import ROOT, InputError
from helpers.engine.activations import capture
from helpers.engine.interpret import interpret
from helpers.models.gguf import find_dequantised
from helpers.models.load import load_model, read_model
from helpers.models.sources import Source
from helpers.runs.results import read_results
from helpers.runs.sweep import describe
from helpers.words.files import slug
from helpers.words.plans import make_plan
from helpers.words.settings import SourceOptions

COMMIT = "c" * 40
SECRET = "hf_thisMustNeverBePrinted"


def described(lm) -> dict:
    """Return what the JSON beside a CSV says about a model."""
    return describe(lm, make_plan(["Titanic"]))["model"]


def readings(lm) -> list[str]:
    vectors = capture(lm, "Diana, Princess of Wales")["hidden_state"][:, -1]
    return interpret(lm, vectors, range(lm.num_layers), max_new_tokens=5)


def test_a_folder(tiny, tiny_folder, status):
    status("source", "folder of safetensors")
    assert load_model(str(tiny_folder)).fingerprint == tiny.fingerprint == described(tiny)["fingerprint"]
    assert described(tiny)["gguf_file"] is None and "dequantised_from" not in described(tiny)


def test_a_gguf_file_by_a_link_with_another_name(lm, tmp_path):
    (tmp_path / "renamed.gguf").symlink_to(lm.source.folder / lm.source.gguf_file)
    assert read_model(str(tmp_path / "renamed.gguf")).slug == "renamed"


def test_a_gguf_file(lm, status):
    status("source", "GGUF file")
    by_path = load_model(str(lm.source.folder / lm.source.gguf_file))
    assert by_path.fingerprint == lm.fingerprint and by_path.slug == "smollm2-135m-instruct.q4_1"
    assert described(by_path)["dequantised_from"] == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
    assert described(by_path)["weights"] == "dequantised"


def test_pickled_weights_only_by_name(tiny, tiny_folder, tmp_path, status):
    status("source", "allow_pickle")
    folder = shutil.copytree(tiny_folder, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save(tiny.model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled ones are read only with allow_pickle=True"):
        load_model(str(folder))
    pickled = load_model(str(folder), allow_pickle=True)
    assert readings(pickled) == readings(tiny) and pickled.fingerprint != tiny.fingerprint
    assert described(pickled)["allow_pickle"] is True


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OddConfig(LlamaConfig):
    model_type = "odd"
class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig
"""


def test_a_model_that_transformers_knows_does_not_need_its_code(tiny, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "known")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "old.OldConfig"}}))
    assert readings(load_model(str(folder))) == readings(tiny)


def test_code_in_another_repository_is_refused(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoModelForCausalLM": "someone/else--odd.OddForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "odd", "auto_map": auto_map}))
    with pytest.raises(InputError, match="its code is in another repository"):
        read_model(str(folder), trust_remote_code=True)


def test_files_that_lack_a_tensor_are_refused(tiny, tiny_folder, tmp_path):
    """transformers would make up a missing tensor."""
    folder = shutil.copytree(tiny_folder, tmp_path / "cut")
    whole = load_file(folder / "model.safetensors")
    whole.pop("model.layers.1.mlp.up_proj.weight")
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="its files lack 1 of its tensors, model.layers.1.mlp.up_proj.weight first"):
        load_model(str(folder))


@pytest.fixture
def odd(tiny_folder, tmp_path) -> Path:
    """A model that needs Python code that comes with it; the code leaves a file, `ran`, where it runs."""
    folder = shutil.copytree(tiny_folder, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "odd", "auto_map": auto_map}))
    (folder / "odd.py").write_text(CODE + f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    return folder


def test_a_models_code_does_not_run_unless_asked_for(odd, tmp_path):
    with pytest.raises(InputError, match="runs only with trust_remote_code=True"):
        load_model(str(odd))
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_models_code_runs_when_asked_for(odd, tmp_path, status):
    """In a process of its own, since imported code stays."""
    status("source", "trust_remote_code")
    env = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [
        *(sys.executable, "-m", "helpers.cli", "reproduce", "--only", "mlp_output_evaluation", "--model", str(odd)),
        *("trust_remote_code=true", "layers=0", "num_prompts=2", "max_new_tokens=2", f"out_dir={tmp_path / 'out'}"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ran").exists() and len(read_results(tmp_path / "out" / "mlp_output.csv")) == 2 * 6


@pytest.mark.parametrize("base", ["tiny", pytest.param("lm", marks=pytest.mark.slow)])
def test_an_adapter(base, tiny_folder, tmp_path, request, status):
    """On a folder and on a GGUF file: the logits are peft's; the name and the fingerprint are another model's."""
    from peft import LoraConfig, get_peft_model

    status("source", "adapter")
    plain = request.getfixturevalue(base)
    name = str(tiny_folder) if base == "tiny" else plain.name
    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    trained = get_peft_model(load_model(name).model, settings).eval()
    trained.save_pretrained(tmp_path / "My-LoRA")
    adapted = load_model(name, adapter=str(tmp_path / "My-LoRA"))
    ids = torch.tensor([plain.token_ids("Diana, Princess of Wales")])
    with torch.inference_mode():
        torch.testing.assert_close(adapted.model(ids).logits, trained(ids).logits)
    assert readings(adapted) != readings(plain)
    assert adapted.slug == plain.slug + "+my-lora" and adapted.fingerprint != plain.fingerprint
    assert described(adapted)["adapter"]["name"] == "My-LoRA" and str(tmp_path) not in json.dumps(described(adapted))


def test_an_adapter_of_another_model_is_refused(tiny, tiny_folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(load_model(str(tiny_folder)).model, settings).save_pretrained(tmp_path / "other")
    weights = load_file(tmp_path / "other/adapter_model.safetensors")
    renamed = {name.replace("layers.2.", "layers.7."): tensor for name, tensor in weights.items()}
    save_file(renamed, tmp_path / "other/adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="adapter=.*not made for this model: 4 of its 6 tensors fit"):
        load_model(str(tiny_folder), adapter=str(tmp_path / "other"))
    (tmp_path / "other/adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="adapter=.*its config can't be read"):
        read_model(str(tiny_folder), adapter=str(tmp_path / "other"))


def test_an_adapter_that_only_adds_tokens_is_refused(tiny, tiny_folder, tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(load_model(str(tiny_folder)).model, settings).save_pretrained(tmp_path / "prompt")
    with pytest.raises(InputError, match="adapter=.*adds tokens to the prompt"):
        load_model(str(tiny_folder), adapter=str(tmp_path / "prompt"))


def test_a_model_on_several_devices(tiny, tiny_folder, status):
    """With accelerate's hooks: some blocks in memory, another read from disk for each pass."""
    status("source", "device_map")
    devices = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu"}
    devices |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    spread = load_model(str(tiny_folder), device_map=devices)
    assert spread.device == torch.device("cpu") and spread.model.model.layers[1].mlp.up_proj.weight.is_meta
    assert readings(spread) == readings(tiny) and spread.fingerprint == tiny.fingerprint
    assert readings(load_model(str(tiny_folder), device_map="auto")) == readings(tiny)
    with pytest.raises(InputError, match="device='cpu': a device_map says where the model goes"):
        load_model(str(tiny_folder), device="cpu", device_map="auto")


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantised_while_loading(lm, quantization, status):
    status("source", "quantization")
    folder = find_dequantised(lm.source.folder / lm.source.gguf_file)
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match=f"quantization='{quantization}': needs bitsandbytes"):
            load_model(str(folder), quantization=quantization)
        pytest.skip("bitsandbytes is not installed")
    low = load_model(str(folder), quantization=quantization)
    assert low.slug == f"{folder.name}-{quantization}" and low.fingerprint != load_model(str(folder)).fingerprint
    assert len(readings(low)) == 30 and described(low)["quantization"] == quantization


def test_names_of_results():
    assert slug("owner/Name") == "owner--name"
    assert slug("owner/Name", revision="step1000") == "owner--name@step1000"
    assert slug("owner/Name:Name-Q4_K_M.gguf") == "name-q4_k_m"
    assert slug("/somewhere/Name-Q8.gguf", adapter="/elsewhere/My-LoRA") == "name-q8+my-lora"
    assert slug("owner/Name", quantization="4bit", device_map="auto") == "owner--name-4bit"


def test_named_parts_are_in_the_fingerprint_only_where_they_are_given(tiny_folder):
    def fingerprint(**options) -> str:
        return Source("it", tiny_folder, None, SourceOptions.of(options)).fingerprint()

    parts = {"attention": "self_attn", "mlp": "mlp"}
    assert fingerprint(parts={}) == fingerprint() != fingerprint(parts=parts)
    assert fingerprint(parts=parts) == fingerprint(parts=dict(reversed(parts.items())))
    assert fingerprint(parts=parts) != fingerprint(parts=parts | {"mlp": "feed_forward"})
    assert slug("owner/Name", parts=parts) == "owner--name"


def test_a_hub_id_is_found_in_the_local_cache(tiny, tiny_folder, tmp_path, monkeypatch):
    """Offline, in a cache as the hub's library lays it out; another id of the same owner is one sentence."""
    repository = tmp_path / "models--owner--Tiny"
    shutil.copytree(tiny_folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    lm = load_model("owner/Tiny", revision="main")
    assert (lm.slug, lm.fingerprint, lm.source.commit) == ("owner--tiny@main", tiny.fingerprint, COMMIT)
    with pytest.raises(InputError, match="model='owner/Other': no such folder, not in the hub's local cache"):
        load_model("owner/Other")


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers what the hub's library asks: which files a revision has, and the files."""

    folder: Path

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool):
        path = self.path.partition("?")[0]
        if "gated" in path:
            return self.refuse(403, "GatedRepo")
        if "owner/Tiny" not in path:
            return self.refuse(401, "RepoNotFound")
        if path.startswith("/api/models/owner/Tiny"):
            if not path.endswith(("/revision/main", f"/revision/{COMMIT}", "/tree/main", f"/tree/{COMMIT}")):
                return self.refuse(404, "RevisionNotFound")
            files = sorted(path for path in self.folder.rglob("*") if path.is_file())
            names = [str(path.relative_to(self.folder)) for path in files]
            if "/tree/" in path:
                sizes = [path.stat().st_size for path in files]
                answer = [{"type": "file", "path": n, "size": s, "oid": n} for n, s in zip(names, sizes, strict=True)]
            else:
                siblings = [{"rfilename": name} for name in names]
                answer = {"id": "owner/Tiny", "modelId": "owner/Tiny", "sha": COMMIT, "siblings": siblings, "tags": []}
            return self.give(json.dumps(answer).encode(), body, {"Content-Type": "application/json"})
        _, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        if revision not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if not (self.folder / name).is_file():
            return self.refuse(404, "EntryNotFound")
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"', "Accept-Ranges": "bytes"}
        self.give((self.folder / name).read_bytes(), body, headers)

    def give(self, content: bytes, body: bool, headers: dict):
        self.send_response(200)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def refuse(self, code: int, kind: str):
        self.send_response(code)
        self.send_header("X-Error-Code", kind)
        self.send_header("X-Error-Message", f"your token is {SECRET}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        self.server.asked.append(f"{self.command} {self.path}")


@pytest.fixture
def hub(lm, tiny_folder, tmp_path):
    """Serve one model, owner/Tiny, on this machine.

    Yields:
        use(*arguments of load_model, as Python text; **environment) -> a line for each: what was loaded, or the error;
        the hub library's cache; the server.
    """
    folder = shutil.copytree(tiny_folder, tmp_path / "served")
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")  # the same in another form
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "Q4").mkdir()
    shutil.copy(lm.source.folder / lm.source.gguf_file, folder / "Q4/small.Q4_1.gguf")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("This", (Hub,), {"folder": folder}))
    server.asked, server.folder = [], folder
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cache = tmp_path / "cache"

    def use(*calls: str, **more) -> list[str]:
        script = """
import sys
from helpers import InputError, load_model
for call in sys.argv[1:]:
    try:
        lm = eval(f"load_model({call})")
        print(lm.slug, lm.fingerprint, lm.source.commit)
    except InputError as error: print(error)
"""
        env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        env |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_CACHE": str(cache), "HF_TOKEN": SECRET}
        command = [sys.executable, "-c", script, *calls]
        done = subprocess.run(command, cwd=ROOT, env=env | more, capture_output=True, text=True)
        assert done.returncode == 0 and SECRET not in done.stdout + done.stderr, done.stderr.replace(SECRET, "SECRET")
        return done.stdout.splitlines()

    yield use, cache, server
    server.shutdown()


@pytest.mark.slow
def test_a_hub_id(hub, tiny, status):
    status("source", "hub id")
    status("source", "revision")
    use, cache, server = hub
    assert use("'owner/Tiny'", f"'owner/Tiny', revision='{COMMIT}'", "'owner/Tiny', revision='v9'") == [
        f"owner--tiny {tiny.fingerprint} {COMMIT}",
        f"owner--tiny@{COMMIT} {tiny.fingerprint} {COMMIT}",
        "model='owner/Tiny': the hub has no revision 'v9' of it",
    ]
    assert not [path for path in cache.rglob("*") if path.suffix == ".bin" or path.name.startswith("consolidated")]
    asked = len(server.asked)
    known, unknown = use("'owner/Tiny'", "'owner/Other'", HF_HUB_OFFLINE="1")
    assert known.startswith("owner--tiny ") and len(server.asked) == asked
    assert unknown.startswith("model='owner/Other': no such folder, not in the hub's local cache")


@pytest.mark.slow
def test_a_gguf_file_on_the_hub(hub, lm, status):
    status("source", "GGUF file on the hub")
    use, _, server = hub
    assert use("'owner/Tiny:Q4/small.Q4_1.gguf'", "'owner/Tiny:none.gguf'") == [
        f"small.q4_1 {lm.fingerprint} {COMMIT}",
        "model='owner/Tiny:none.gguf': the hub's repository has no file none.gguf",
    ]
    assert not [line for line in server.asked if "safetensors" in line]


@pytest.mark.slow
def test_a_hub_model_that_cannot_be_used_is_refused_before_its_weights(hub):
    use, cache, server = hub
    config = server.folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"is_encoder_decoder": True}))
    assert use("'owner/Tiny'")[0].startswith("model='owner/Tiny': llama is an encoder-decoder")
    assert not [line for line in server.asked if "safetensors" in line.split("/")[-1]]


@pytest.mark.slow
def test_a_hub_model_that_is_not_available_is_one_sentence(hub, status):
    status("source", "gated or missing hub model")
    use, _, _ = hub
    gated, missing = use("'owner/gated'", "'owner/Missing'")
    assert gated.startswith("model='owner/gated': a gated model: accept its terms on its page")
    assert missing.startswith("model='owner/Missing': not on the hub, or private")
