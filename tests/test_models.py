"""Finding, checking and refusing models."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from helpers import ROOT, InputError
from helpers.catalogue import CATALOGUE
from helpers.dequantised import find_dequantised
from helpers.models import load_model, read_model
from helpers.plans import PAPER_TARGET_PROMPT
from helpers.results import read_prompts


def test_the_embedded_model(lm):
    assert (lm.num_layers, lm.width, lm.dtype) == (30, 576, "float32")
    assert lm.fingerprint == CATALOGUE["smollm2-135m"].sha256[:16]
    assert lm.decoded_tokens("Diana, Princess of Wales") == ["D", "iana", ",", " Princess", " of", " Wales"]


def test_the_same_gguf_by_its_path_is_the_same_model(lm):
    card = read_model(str(lm.source.folder / lm.source.gguf_file))
    assert card.token_ids("Star Wars") == lm.token_ids("Star Wars") and card.slug == "smollm2-135m-instruct.q4_1"


@pytest.mark.slow
def test_the_folder_made_of_a_gguf_file_holds_the_same_model(lm, tmp_path, monkeypatch):
    """Where no folder can be made, the file itself is read: slower, with the same numbers, tokens and stop tokens."""
    folder = find_dequantised(lm.source.folder / lm.source.gguf_file)
    assert folder, "made by set-up, or when the fixture loaded"
    kept = load_model("smollm2-135m")
    (tmp_path / "runs").write_text("a file where the folder should go")
    monkeypatch.setattr("helpers.dequantised.ROOT", tmp_path)
    direct = load_model("smollm2-135m")
    assert direct.fingerprint == kept.fingerprint and direct.stop_tokens == kept.stop_tokens
    assert same(direct.model.state_dict(), kept.model.state_dict())
    assert same(dict(direct.model.named_buffers()), dict(kept.model.named_buffers()))
    for text in [
        *read_prompts("data/prompts.csv"),
        PAPER_TARGET_PROMPT,
        "<|im_start|>Übér  naïve\n\n\t→ 東京<|im_end|>",
    ]:
        assert direct.token_ids(text) == kept.token_ids(text)
        assert direct.decoded_tokens(text) == kept.decoded_tokens(text)


def same(some: dict, others: dict) -> bool:
    return some.keys() == others.keys() and all((some[name] == others[name]).all() for name in some)


def test_a_folder_that_was_touched_is_not_used(lm, tmp_path, monkeypatch):
    file = lm.source.folder / lm.source.gguf_file
    folder = find_dequantised(file)
    copy = tmp_path / "runs" / "models" / folder.name
    shutil.copytree(folder, copy)
    monkeypatch.setattr("helpers.dequantised.ROOT", tmp_path)
    assert find_dequantised(file) == copy
    with open(copy / "model.safetensors", "r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x7f")
    assert find_dequantised(file) is None


def test_a_model_file_that_is_gone_is_one_sentence(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"not a model")
    with pytest.raises(InputError, match="its files can't be read"):
        read_model(str(tmp_path / "broken.gguf"))


def test_an_embedded_file_that_is_not_the_known_one_is_refused(lm, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "smollm2-135m", CATALOGUE["smollm2-135m"]._replace(sha256="0" * 64))
    with pytest.raises(InputError, match="has SHA-256 b179c9523d0e…, not the known file"):
        load_model("smollm2-135m")


def test_a_folder_of_safetensors(tiny, tiny_folder):
    assert (tiny.num_layers, tiny.width, tiny.slug) == (3, 32, "tiny-llama")
    assert load_model(str(tiny_folder)).fingerprint == tiny.fingerprint


def test_the_fingerprint_sees_a_changed_config(tiny, tiny_folder, tmp_path):
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}))
    assert load_model(str(other)).fingerprint != tiny.fingerprint


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_passes_its_own_check(tiny_folder, dtype):
    assert load_model(str(tiny_folder), dtype=dtype).dtype == dtype


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
        ({"name": "smollm2-135m", "trust_remote_code": "yes"}, "trust_remote_code='yes': expected True or False"),
        ({"name": "smollm2-135m", "quantization": "2bit"}, "quantization='2bit': expected one of 4bit, 8bit"),
        ({"name": "smollm2-135m", "quantization": "4bit"}, "quantization='4bit': a GGUF file is quantised already"),
        ({"name": "smollm2-135m", "adapter": "/nowhere"}, "adapter='/nowhere': expected a PEFT folder"),
        ({"name": "smollm2-135m", "device_map": 0}, "device_map=0: expected"),
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


def test_a_hub_id_is_found_in_the_local_cache(tiny, tiny_folder, tmp_path):
    """A cache as the hub's own library lays it out, offline; another id of the same owner is one sentence."""
    repository = tmp_path / "models--owner--Tiny"
    shutil.copytree(tiny_folder, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    script = """
from helpers import InputError
from helpers.models import load_model
lm = load_model("owner/Tiny", revision="main")
print(lm.slug, lm.fingerprint)
try: load_model("owner/Other")
except InputError as error: print(error)
"""
    env = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    found, missing = done.stdout.splitlines()
    assert found == f"owner--tiny@main {tiny.fingerprint}"
    assert missing.startswith("model='owner/Other': no such folder here, not in the hub's local cache")


def test_no_network_without_a_hub_id():
    """Load, sweep and score with every connection refused, and without the libraries' own offline switch."""
    script = """
import os, socket
os.environ.pop("HF_HUB_OFFLINE", None)
def refuse(*a, **k): raise SystemExit("a connection was tried")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from helpers.models import load_model
from helpers.superscopes import sweep
print(len(sweep(load_model("smollm2-135m"), ["Titanic"], layers=1, amplifiers=1)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
