"""Files: what is written is what is read, whole or not at all."""

import json

import numpy as np
import pandas as pd
import pytest

from helpers import ROOT, InputError
from helpers.plans import COMPONENTS
from helpers.results import (
    check_grid,
    evaluations,
    read_prompts,
    read_results,
    results_folder,
    save_results,
    slug,
    write_atomically,
)  # fmt: skip
from helpers.superscopes import ROW_COLUMNS, sweep

NASTY = [
    "NA",
    "None",
    "",
    "nan",
    "1",
    "a\nb\r\nc\rd",
    'say "hi", no',
    "=1+1",
    " lead",
    "🎸 شيء",
    "tab\t",
    "\\N",
    "a\0b",
]


def test_texts_come_back_unchanged(tmp_path):
    rows = pd.DataFrame(
        {"source prompt": NASTY, "token": NASTY, "layer": 1, "amplification value": 1.5, "result": NASTY}
    )
    save_results(rows, tmp_path / "nasty.csv")
    back = read_results(tmp_path / "nasty.csv")
    for column in ("source prompt", "token", "result"):
        assert back[column].tolist() == NASTY


def test_a_sweep_comes_back_unchanged(tiny, tmp_path):
    rows = sweep(tiny, ["Titanic", "Star Wars"], layers=[0, 1], amplifiers=[1, 1.5, 3], max_new_tokens=3)
    assert tuple(rows.columns) == ROW_COLUMNS
    save_results(rows, tmp_path / "rows.csv")
    back = read_results(tmp_path / "rows.csv")
    assert back.attrs["models"] == ["tiny-llama"]
    for column in ROW_COLUMNS:
        if column not in ("seed", "score gold"):
            assert back[column].tolist() == rows[column].tolist(), column
    lines = (tmp_path / "rows.csv").read_bytes()
    assert b"\r" not in lines and lines.decode("utf-8").splitlines()[0] == ",".join(ROW_COLUMNS)
    assert {"1", "1.5", "3"} == set(pd.read_csv(tmp_path / "rows.csv", dtype=str)["amplification value"])
    about = json.loads((tmp_path / "rows.json").read_text())
    assert about["rows"] == 12 and about["status"] == {"ok": 12}
    assert about["model"]["fingerprint"] == tiny.fingerprint and about["batch_size"] >= 1


def test_the_same_sweep_is_the_same_bytes_in_any_batches(lm, tmp_path):
    prompts = read_prompts("data/prompts.csv", 16)
    for name, size in (("a", 64), ("b", 7)):
        save_results(
            sweep(lm, prompts, COMPONENTS, layers=[3], amplifiers=[1.5], max_new_tokens=3, batch_size=size),
            tmp_path / f"{name}.csv",
        )
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "x.csv").write_text("old")
    with pytest.raises(RuntimeError), write_atomically(tmp_path / "x.csv") as file:
        file.write("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"] and (tmp_path / "x.csv").read_text() == "old"


def published(tmp_path):
    """A small made-up file in the form of the authors' published ones."""
    path = tmp_path / "published.csv"
    path.write_bytes(
        b"source prompt,token,layer,amplification value,result\r\n"
        b'NA,NA,1,1,": one, two"\r\n'
        b'NA,NA,1,3,"...\r\nnext ""line"""\r\n'
        b"Titanic,ic,1,1,None\r\n"
        b"Titanic,ic,1,3,</s>\r\n"
        b"Titanic,ic,1,3,again\r\n"
        b"NA,NA,2,1,only here\r\n"
    )
    return path


def test_published_files_are_read_as_they_are(tmp_path):
    rows = read_results(published(tmp_path))
    assert rows["source prompt"].tolist() == ["NA", "NA", "Titanic", "Titanic", "Titanic", "NA"]
    assert rows["result"].tolist() == [": one, two", '...\r\nnext "line"', "None", "</s>", "again", "only here"]
    assert (rows["component"] == "mlp_output").all() and rows.attrs["models"] == []
    gaps, repeats = check_grid(rows)
    assert gaps[["source prompt", "layer", "amplification value"]].values.tolist() == [["Titanic", 2, 1]]
    assert repeats[["source prompt", "layer", "amplification value", "rows"]].values.tolist() == [["Titanic", 1, 3, 2]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("a,b\n1,2\n", "misses .'source prompt'"),
        ("source prompt,token,layer,amplification value,result\n", "expected rows"),
        ("source prompt,token,layer,amplification value,result\na,b,1,x,c\n", "number"),
        ("", "not a CSV"),
    ],
)
def test_unreadable_results(tmp_path, content, words):
    if content is not None:
        (tmp_path / "x.csv").write_text(content)
    with pytest.raises(InputError, match=words):
        read_results(tmp_path / "x.csv")


def test_prompts():
    prompts = read_prompts("data/prompts.csv")
    assert len(prompts) == len(set(prompts)) == 48 and "Diana, Princess of Wales" in prompts
    assert read_prompts("data/prompts.csv", 3) == prompts[:3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("text\nTitanic\n", "no column 'prompt'; its columns are text"),
        ("prompt;gold\nTitanic;ship\n", "no column 'prompt'; its columns are prompt;gold"),
        ("prompt\nTitanic\n  \n", "row 2 is blank"),
        ("", "not a CSV"),
    ],
)
def test_unreadable_prompts(tmp_path, content, words):
    if content is not None:
        (tmp_path / "p.csv").write_text(content)
    with pytest.raises(InputError, match=words):
        read_prompts(tmp_path / "p.csv")


def test_prompts_with_a_mark_and_windows_lines(tmp_path):
    (tmp_path / "p.csv").write_bytes(b'\xef\xbb\xbfprompt\r\nNA\r\n"a, b"\r\n007\r\n')
    assert read_prompts(tmp_path / "p.csv") == ["NA", "a, b", "007"]


def test_folders_and_names(tmp_path):
    assert results_folder("smollm2-135m") == ROOT / "data/smollm2-135m"
    assert results_folder("meta-llama/Llama-2-13b-chat-hf").name == "meta-llama--llama-2-13b-chat-hf"
    assert results_folder("any", "runs/x") == ROOT / "runs/x" and results_folder("any", tmp_path) == tmp_path
    assert slug("models/Some-Model.Q4.gguf") == "some-model.q4" and slug(str(tmp_path)) == tmp_path.name.lower()
    with pytest.raises(InputError, match="no evaluation here"):
        evaluations(tmp_path)


def test_committed_results_are_complete():
    """What is in data/ has the schema, the paper's grid, no gaps, and the JSON that made it."""
    for name, count in (("mlp_output", 2016), ("hidden_state", 3360)):
        path = ROOT / "data/smollm2-135m" / f"{name}.csv"
        rows = read_results(path)
        assert tuple(rows.columns) == ROW_COLUMNS and len(rows) == count and rows["id"].is_unique
        assert [len(table) for table in check_grid(rows)] == [0, 0]
        assert json.loads(path.with_suffix(".json").read_text())["status"] == {"ok": count}
        assert np.isfinite(rows["score"].astype(float)).all()
