"""Vectors of one model that another reads: as they are, or through a map that is fitted, kept and checked."""

import json
import os

import pytest
import torch
from reference import plain_interpret, plain_vector
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import InputError, load_model, read
from helpers.engine.mapping import load_map
from helpers.engine.vectors import as_seed
from helpers.words.target import PAPER_TARGET_PROMPT

SIZES = {
    "vocab_size": 49152, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
FEW = {"random": 2, "max_new_tokens": 4, "way": "plain", "amplifiers": (1, 2)}
EXPRESSIONS = '"Titanic"; "King" - "Man"'


class Judge:
    name = fingerprint = ""
    threshold = 0.3

    def embed(self, texts):
        import numpy as np

        return np.eye(len(texts), 500, dtype=np.float32)


@pytest.fixture(scope="module")
def readers(lm, tmp_path_factory):
    """Two other models: as wide as the tiny one, and wider."""
    found = {}
    for width in (32, 48):
        folder = tmp_path_factory.mktemp("readers") / f"width-{width}"
        torch.manual_seed(width)
        LlamaForCausalLM(LlamaConfig(hidden_size=width, **SIZES)).save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        found[width] = load_model(str(folder))
    return found


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setattr("helpers.runs.ledger.WORK", tmp_path / "work")
    monkeypatch.setattr("helpers.runs.vectors.WORKED_OUT", tmp_path / "vectors")


def of_source(tiny, name, layer):
    def plain(prompt):
        return plain_vector(tiny.model, tiny.tokenizer, prompt, "hidden_state", layer, -1).detach()

    return plain("Titanic") if "Titanic" in name else plain("King") - plain("Man")


def test_where_widths_agree_vectors_are_read_as_they_are(tiny, tiny_folder, readers):
    rows = read(readers[32], EXPRESSIONS, mapped_from=str(tiny_folder), layers="0,2", target_layer=3, judge=Judge(), **FEW)
    own = rows[rows["token"] == "expression"]
    assert len(own) == 2 * 2 * 2 and set(own["layer"]) == {0, 2} and (rows["token"] == "random").sum() == 2 * 2 * 2 * 2
    for _, row in own.iterrows():
        vector = row["amplification value"] * of_source(tiny, row["source prompt"], row["layer"])
        other = readers[32]
        assert row["result"] == plain_interpret(other.model, other.tokenizer, vector, 3, PAPER_TARGET_PROMPT, max_new_tokens=4)


def test_a_map_is_fitted_once_kept_and_puts_vectors_and_random_ones_through(tiny, tiny_folder, readers, tmp_path):
    other, file = readers[48], tmp_path / "map.safetensors"
    asked = {"mapped_from": str(tiny_folder), "map": str(file), "judge": Judge(), **FEW}
    rows = read(other, EXPRESSIONS, layers="1", target_layer=2, **asked)
    made, before = load_map(file), os.stat(file).st_mtime_ns
    about = made.about
    assert (about.prompts, about.held_out, about.source_layer, about.target_layer) == (200, 50, 1, 2)
    assert (about.source, about.target) == (tiny.fingerprint, other.fingerprint)
    assert about.r2 > -0.01 and abs(about.cosine - about.cosine_of_others) < 0.1, "random models have nothing in common"
    for _, row in rows[rows["token"] == "expression"].iterrows():
        vector = row["amplification value"] * made(of_source(tiny, row["source prompt"], 1))
        assert row["result"] == plain_interpret(other.model, other.tokenizer, vector, 2, PAPER_TARGET_PROMPT, max_new_tokens=4)
    random = rows[rows["token"] == "random"]
    assert len(random) == 2 * 2 * 2 and random["rho"].gt(0).all()
    assert rows.attrs["plans"][0]["map"]["r2"] == about.r2 and rows.attrs["plans"][1]["map"]["file"] == "map.safetensors"
    again = read(other, EXPRESSIONS, **asked)  # layers and the target layer are the map's
    assert again["id"].tolist() == rows["id"].tolist() and again["result"].tolist() == rows["result"].tolist()
    assert os.stat(file).st_mtime_ns == before


def test_random_directions_are_the_sources_and_mapped_like_the_vectors(tiny, tiny_folder, readers, tmp_path):
    from helpers.engine.given import GivenVectors
    from helpers.runs.vectors import Request
    from helpers.words.vectors import VectorSettings

    asked = {"model": readers[48].name, "vectors": '"Titanic"', "mapped_from": str(tiny_folder), "map": str(tmp_path / "m.safetensors")}
    request = Request(VectorSettings.of(asked | {"layers": "1", "target_layer": 2, "random": 1}), card=readers[48])
    [drawn], made = request.plans[1].vectors, load_map(tmp_path / "m.safetensors")
    found = GivenVectors(readers[48], request.plans[1].vectors, request.through)[drawn.name]["vector"][1, 0]
    direction = torch.randn(32, generator=torch.Generator().manual_seed(as_seed(f"{drawn.key} 1")))
    length = of_source(tiny, "Titanic", 1).norm()
    torch.testing.assert_close(found, made(direction * (length / direction.norm())), rtol=1e-4, atol=1e-4)
    assert "map: fitted on 200 prompts; on 50 others R² " in request.map_found


def test_the_shell_fits_and_reads(tiny_folder, readers, tmp_path, capsys):
    from helpers.cli import main

    out, other = tmp_path / "out", readers[48].name
    command = ["read", EXPRESSIONS, "--model", other, f"mapped_from={tiny_folder}", f"map={tmp_path / 'm.safetensors'}"]
    command += ["random=2", "max_new_tokens=3", "way=plain", "--amplifiers", "1,2", f"out_dir={out}", "name=x"]
    assert main([*command, "--layers", "1", "target_layer=2"]) == 0
    assert "map: fitted on 200 prompts" in capsys.readouterr().out
    first = (out / "x.csv").read_bytes()
    assert main(command) == 0 and (out / "x.csv").read_bytes() == first
    assert json.loads((out / "x.json").read_text())["settings"]["mapped_from"] == str(tiny_folder)


def test_what_does_not_fit_is_refused(tiny, tiny_folder, readers, tmp_path):
    def refused(why, other=readers[48], vectors='"King"', **settings):
        with pytest.raises(InputError, match=why):
            read(other, vectors, judge=Judge(), **{"mapped_from": str(tiny_folder)} | settings)

    file = str(tmp_path / "map.safetensors")
    refused("the vectors have 32 numbers, .* a width of 48: say where a map is or goes", layers="1")
    refused("map=.*say which model the vectors are of", mapped_from="", map=file)
    refused("layers='1-2': a map is of one layer", map=file, layers="1-2")
    refused("target_layer=.*a map leads into one layer", map=file, layers="1", target_layer="same")
    refused("map_prompts=.*no such file", map=file, layers="1", map_prompts="nowhere.csv")
    refused("layers 0–2", layers="9", other=readers[32])
    read(readers[48], '"King"', mapped_from=str(tiny_folder), map=file, layers="1", target_layer=2, judge=Judge(), random=0, max_new_tokens=2)
    refused("model=.*was fitted on the model with the fingerprint", map=file, other=readers[32])
    refused("mapped_from=.*was fitted on the model with the fingerprint", map=file, mapped_from=readers[32].name)
    refused("target_layer=.*leads into layer 2", map=file, target_layer=1)
    refused("layers='0': .* is of layer 1", map=file, layers="0")
    refused("component='mlp_output': .* is of hidden_state", map=file, component="mlp_output")
    refused("not a map", map=str(tiny_folder / "model.safetensors"))
