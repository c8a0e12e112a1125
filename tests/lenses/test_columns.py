"""The column `logit lens`: the vocabulary of each row's vector, and nothing else changes."""

import json

import pandas as pd
import torch

from helpers.engine.activations import capture
from helpers.lenses.columns import COLUMN, with_lens
from helpers.lenses.logit import vocabulary
from helpers.runs.results import read_table, save_results
from helpers.runs.sweep import sweep
from helpers.words.rows import LATER, ROW_COLUMNS

PROMPTS = ["Diana, Princess of Wales", "Star Wars"]
READ = ("mlp_output", "hidden_state", "pre_mlp_residual", "attention_output", "norm[mlp_output]", "guidance", "random[mlp_output]")


def test_it_is_the_vocabulary_of_the_vector(tiny, tmp_path):
    rows = sweep(tiny, PROMPTS, READ, "0,2", (1, 3), max_new_tokens=2)
    told = with_lens(tiny, rows)
    pd.testing.assert_frame_equal(told.drop(columns=COLUMN), rows)
    for row in told.to_dict("records"):
        at, (layer, position) = capture(tiny, row["source prompt"]), (row["layer"], row["position"])
        if row["component"].startswith("random"):
            assert row[COLUMN] == ""
            continue
        if row["component"] == "guidance":
            vector = at["pre_mlp_residual"][layer, position] + row["amplification value"] * at["mlp_output"][layer, position]
        else:
            vector = at[row["component"].removeprefix("norm[").rstrip("]")][layer, position]
        assert json.loads(row[COLUMN]) == [token for token, _ in vocabulary(tiny, torch.stack([vector]), 5)[0]]
    assert COLUMN in {column.name for column in LATER} and COLUMN not in ROW_COLUMNS
    save_results(told, tmp_path / "rows.csv")
    again = read_table(tmp_path / "rows.csv").rows
    assert again[COLUMN].tolist() == told[COLUMN].tolist() and again["id"].tolist() == rows["id"].tolist()


def test_controls_alone_have_none(tiny):
    rows = sweep(tiny, PROMPTS[:1], ("zero", "none"), 0, 1, max_new_tokens=2)
    assert with_lens(tiny, rows)[COLUMN].tolist() == ["", ""]
