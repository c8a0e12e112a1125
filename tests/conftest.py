"""One real model, loaded once, and a small random one in a folder."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import ROOT
from helpers.models import LanguageModel, load_model

GOLDEN = ROOT / "tests" / "golden.csv"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes, and only those")


def pytest_collection_modifyitems(config, items):
    slow = config.getoption("--slow")
    config.hook.pytest_deselected(items=[item for item in items if ("slow" in item.keywords) != slow])
    items[:] = [item for item in items if ("slow" in item.keywords) == slow]


@pytest.fixture(scope="session")
def lm() -> LanguageModel:
    return load_model("smollm2-135m")


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


def count_hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture(autouse=True)
def no_hook_is_left(request):
    """Every test ends with as many hooks on the real model as it began with."""
    model = request.getfixturevalue("lm").model if "lm" in request.fixturenames else None
    before = count_hooks(model) if model else 0
    yield
    assert (count_hooks(model) if model else 0) == before
