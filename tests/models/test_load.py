"""Loading a model: from its files to a card and a model in memory, and what is refused on the way."""

import json
import os
import shutil
import subprocess
import sys
import weakref

import pytest
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from helpers import ROOT, InputError
from helpers.models.catalogue import CATALOGUE
from helpers.models.gguf import find_dequantised
from helpers.models.load import check_hardware, load_model, main, read_model
from helpers.words.prompts import read_prompts
from helpers.words.rows import Identity
from helpers.words.target import PAPER_TARGET_PROMPT


def test_the_default_model(lm):
    assert (lm.num_layers, lm.width, lm.context_length) == (30, 576, 8192)
    assert lm.decoded_tokens("Diana, Princess of Wales") == ["D", "iana", ",", " Princess", " of", " Wales"]


def test_what_identifies_a_model(lm):
    assert lm.identity == Identity("smollm2-135m", CATALOGUE["smollm2-135m"].sha256[:16], "float32", "sdpa")


def test_the_same_gguf_by_its_path_is_the_same_model(lm):
    card = read_model(str(lm.source.folder / lm.source.gguf_file))
    assert card.token_ids("Star Wars") == lm.token_ids("Star Wars") and card.slug == "smollm2-135m-instruct.q4_1"
    assert card.source.fingerprint() == lm.fingerprint


@pytest.mark.slow
def test_the_folder_made_from_a_gguf_file_holds_the_same_model(lm, tmp_path, monkeypatch, capfd):
    """Where no folder can be made, the file itself is read: slower, with the same numbers, tokens and stop tokens."""
    folder = find_dequantised(lm.source.folder / lm.source.gguf_file)
    assert folder, "made by set-up, or when the fixture loaded"
    kept = load_model("smollm2-135m")
    (tmp_path / "runs").write_text("a file where the folder should go")
    monkeypatch.setattr("helpers.models.gguf.ROOT", tmp_path)
    direct = load_model("smollm2-135m")
    assert "it/s" not in capfd.readouterr().err  # no progress bar, of dequantising or of loading
    assert direct.fingerprint == kept.fingerprint and direct.stop_tokens == kept.stop_tokens
    assert are_equal(direct.model.state_dict(), kept.model.state_dict())
    assert are_equal(dict(direct.model.named_buffers()), dict(kept.model.named_buffers()))
    for text in [
        *read_prompts("data/prompts.csv"),
        PAPER_TARGET_PROMPT,
        "<|im_start|>Übér  naïve\n\n\t→ 東京<|im_end|>",
    ]:
        assert direct.token_ids(text) == kept.token_ids(text)
        assert direct.decoded_tokens(text) == kept.decoded_tokens(text)


def are_equal(some: dict, others: dict) -> bool:
    return some.keys() == others.keys() and all((some[name] == others[name]).all() for name in some)


@pytest.mark.slow
def test_a_dequantised_folder_that_was_changed_is_not_used(lm, tmp_path, monkeypatch):
    file = lm.source.folder / lm.source.gguf_file
    folder = find_dequantised(file)
    copy = tmp_path / "runs" / "models" / folder.name
    shutil.copytree(folder, copy)
    monkeypatch.setattr("helpers.models.gguf.ROOT", tmp_path)
    assert find_dequantised(file) == copy
    with open(copy / "model.safetensors", "r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x7f")
    assert find_dequantised(file) is None


def test_a_broken_gguf_file_is_one_sentence(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"not a model")
    with pytest.raises(InputError, match="its files can't be read"):
        read_model(str(tmp_path / "broken.gguf"))


def test_a_catalogue_file_that_is_not_the_known_one_is_refused(lm, monkeypatch):
    """Set-up then says how to install the package again."""
    monkeypatch.setitem(CATALOGUE, "smollm2-135m", CATALOGUE["smollm2-135m"]._replace(sha256="0" * 64))
    with pytest.raises(InputError, match="has SHA-256 b179c9523d0e…, not the known file"):
        load_model("smollm2-135m")
    with pytest.raises(SystemExit, match="not the known file.*pip install --force-reinstall"):
        main()


def test_a_folder_of_safetensors(tiny, tiny_folder):
    assert (tiny.num_layers, tiny.width, tiny.slug) == (3, 32, "tiny-llama")
    assert load_model(str(tiny_folder)).identity == tiny.identity


def test_the_fingerprint_sees_a_changed_config(tiny, tiny_folder, tmp_path):
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}))
    assert load_model(str(other)).fingerprint != tiny.fingerprint


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_passes_the_proof(tiny_folder, dtype):
    assert load_model(str(tiny_folder), dtype=dtype).dtype == dtype


def test_loading_draws_no_progress_bars(tiny_folder, capfd):
    load_model(str(tiny_folder))
    assert capfd.readouterr().err == ""
    AutoModelForCausalLM.from_pretrained(tiny_folder)  # transformers' bars are only off while we load
    assert "Loading weights" in capfd.readouterr().err
    with pytest.raises(InputError):
        load_model("/no/such.gguf")
    list(logging.tqdm([1], desc="theirs"))
    assert "theirs" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "smolm2"}, "model='smolm2': expected smollm2-135m"),
        ({"name": "/no/such.gguf"}, "model="),
        ({"name": "smollm2-135m", "dtype": "int8"}, "dtype='int8': expected one of float32"),
        ({"name": "smollm2-135m", "device": "tpu"}, "device='tpu': not on this machine"),
        ({"name": "smollm2-135m", "revison": "main"}, r"source_options=\['revison'\]: known: revision, adapter"),
        ({"name": "smollm2-135m", "revision": "main"}, "revision='main': only a model on the hub has revisions"),
        ({"name": "smollm2-135m", "revision": 3}, "revision=3: expected text"),
        ({"name": "smollm2-135m", "trust_remote_code": "yes"}, "trust_remote_code='yes': expected true or false"),
        ({"name": "smollm2-135m", "quantization": "2bit"}, "quantization='2bit': expected one of 4bit, 8bit"),
        ({"name": "smollm2-135m", "quantization": "4bit"}, "quantization='4bit': a GGUF file is quantised already"),
        ({"name": "smollm2-135m", "adapter": "/nowhere"}, "adapter='/nowhere': expected a PEFT folder"),
        ({"name": "smollm2-135m", "device_map": 0}, "device_map=0: expected"),
        ({"name": "smollm2-135m", "parts": {"mlp": "mlp"}}, "parts={'mlp': 'mlp'}: expected the modules of a block"),
    ],
)
def test_wrong_settings_are_one_sentence(settings, words):
    with pytest.raises(InputError, match=words) as error:
        load_model(**settings)
    assert "\n" not in str(error.value)


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match="pickled ones are read only with allow_pickle=True"):
        load_model(str(tmp_path))


def test_truncated_weights_are_one_sentence(tiny_folder, tmp_path):
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])
    with pytest.raises(InputError, match="weights can't be loaded"):
        load_model(str(broken))


def test_a_card_needs_no_weights(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "card")
    (folder / "model.safetensors").write_bytes(b"")
    assert read_model(str(folder)).num_layers == 3


@pytest.mark.slow
def test_no_network_without_a_hub_id():
    """Load, sweep and score with every connection refused, and without the libraries' own offline switch."""
    script = """
import os, socket
def refuse(*a, **k): raise SystemExit("a connection was tried")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from helpers import load_model, sweep
print(len(sweep(load_model("smollm2-135m"), ["Titanic"], layers=1, amplifiers=1)))
"""
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_a_device_without_numbers_is_none():
    with pytest.raises(InputError, match="device='meta': not on this machine"):
        check_hardware("float32", "meta")


def test_the_weights_of_a_gguf_file_are_not_in_memory_twice(monkeypatch, tmp_path):
    """Where it is read in float32 to be kept and then again in another dtype, the first model is freed before."""
    from types import SimpleNamespace

    from helpers.models import load

    class Model:
        def to(self, device):
            return self

    made = []

    def read(card, dtype, device):
        assert not [one for one in made if one()], "the one before is in memory still"
        model = Model()
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(load, "_read_weights", read)
    monkeypatch.setattr(load, "is_worth_keeping", lambda file: True)
    monkeypatch.setattr(load, "keep_dequantised", lambda *_: None)
    options = SimpleNamespace(device_map="", adapter="", quantization="")
    source = SimpleNamespace(options=options, gguf_file="a.gguf", folder=tmp_path)
    card = SimpleNamespace(source=source, config=None, tokenizer=None)
    assert isinstance(load._load(card, "bfloat16", "cpu"), Model) and len(made) == 2
