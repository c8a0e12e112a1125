"""Files: what is written is what is read, whole or not at all."""

import gzip
import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from helpers import ROOT, InputError, sweep
from helpers.experiments.layer_success_plots import check_grid
from helpers.runs.results import evaluations, read_evaluations, read_results, save_results
from helpers.words.files import json_of
from helpers.words.rows import ROW_COLUMNS
from helpers.words.target import PAPER_TARGET_PROMPT, TargetPrompt

NASTY = [
    "NA", "None", "", "nan", "1", "a\nb\r\nc\rd", "c\rd", "\n\r", 'say "hi", no', "=1+1", " lead", "🎸 شيء", "tab\t", "\\N", "a\0b",
]  # fmt: skip


@pytest.mark.parametrize("name", ["nasty.csv", "nasty.csv.gz"])
def test_texts_come_back_unchanged(tmp_path, name):
    rows = pd.DataFrame(
        {"source prompt": NASTY, "token": NASTY, "layer": 1, "amplification value": 1.5, "result": NASTY, "id": "12e3"}
    )
    save_results(rows, tmp_path / name)
    back = read_results(tmp_path / name)
    for column in ("source prompt", "token", "result", "id"):
        assert back[column].tolist() == rows[column].tolist()


def test_a_table_is_the_same_bytes_each_time_and_its_json_knows_them(tmp_path):
    rows = pd.DataFrame({"amplification value": [1.0, 1.5, 1e30], "result": ["a", "b\n", "c"], "first item": "a"})
    rows.attrs = {"verdict": ["good"]}
    for name in ("a.csv", "b.csv.gz", "c.csv.gz"):
        save_results(rows, tmp_path / name)
    plain = (tmp_path / "a.csv").read_bytes()
    assert plain == b'amplification value,result\n1,a\n1.5,"b\n"\n1000000000000000000000000000000,c\n'
    assert gzip.decompress((tmp_path / "b.csv.gz").read_bytes()) == plain
    assert (tmp_path / "b.csv.gz").read_bytes() == (tmp_path / "c.csv.gz").read_bytes()
    about = json.loads((tmp_path / "a.json").read_text())
    assert about == {"verdict": ["good"], "rows": 3, "status": {}, "csv": hashlib.sha256(plain).hexdigest()[:16]}


def published(tmp_path):
    """Make up a small file in the form of the authors' published ones."""
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
    assert rows["first item"].tolist()[0] == "one"
    assert (rows["component"] == "mlp_output").all() and rows.attrs["models"] == []
    assert set(read_results(published(tmp_path), "hidden_state")["component"]) == {"hidden_state"}
    gaps, repeats = check_grid(rows)
    assert gaps[["source prompt", "layer", "amplification value"]].values.tolist() == [["Titanic", 2, 1]]
    assert repeats[["source prompt", "layer", "amplification value", "rows"]].values.tolist() == [["Titanic", 1, 3, 2]]


def test_a_first_item_ends_where_its_own_target_prompt_says(tmp_path):
    """The JSON beside a file has each target prompt's separator."""
    rows = pd.DataFrame(
        {
            "source prompt": "Titanic", "token": "ic", "layer": 1, "amplification value": 1,
            "result": ": an actor, a ship; a film", "target prompt": ["paper", "mine", "unknown"],
        }
    )  # fmt: skip
    prompts = ({"name": "paper", "stop": ", "}, {"name": "mine", "stop": "; "})
    rows.attrs = {"plans": [{"target_prompt": prompt} for prompt in prompts]}
    save_results(rows, tmp_path / "rows.csv")
    assert read_results(tmp_path / "rows.csv")["first item"].tolist() == ["an actor", "an actor, a ship", "an actor"]


def test_a_first_item_ends_where_the_only_target_prompt_says_whatever_its_name(tiny, tmp_path):
    """A prompt with several placeholders has a name by their texts in the plan, by their indexes in the rows."""
    several = TargetPrompt("Oslo: x, Bergen: x", placeholder=(" x",), stop="e")
    rows = sweep(tiny, "Titanic", "hidden_state", 1, (1, 2), target_prompt=several, max_new_tokens=8)
    assert rows["first item"].str.len().sum() < rows["result"].str.len().sum() - 4, "something is cut"
    save_results(rows, tmp_path / "rows.csv")
    assert read_results(tmp_path / "rows.csv")["first item"].tolist() == rows["first item"].tolist()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("a,b\n1,2\n", "lacks .'source prompt'"),
        ("source prompt,token,layer,amplification value,result\n", "expected rows"),
        ("source prompt,token,layer,amplification value,result\na,b,1,x,c\n", "number"),
        ("", "not a CSV"),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_unreadable_results(tmp_path, content, words, name):
    if content is not None:
        (tmp_path / name).write_bytes(gzip.compress(content.encode()) if name.endswith("gz") else content.encode())
    with pytest.raises(InputError, match=words):
        read_results(tmp_path / name)


def test_a_compressed_file_that_was_cut_off_is_no_csv(tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(published(tmp_path).read_bytes())[:-20])
    with pytest.raises(InputError, match="not a CSV"):
        read_results(tmp_path / "x.csv.gz")


def evaluation(tmp_path, file="mlp_output", **model):
    """Write an evaluation with a single row; return its path and what its JSON says."""
    plan = {
        "components": ["mlp_output"], "token": [-1], "target_layer": ["same"], "decoding": "greedy",
        "max_new_tokens": 10, "target_prompt": {"text": PAPER_TARGET_PROMPT, "name": "paper", "stop": ", "},
    }  # fmt: skip
    identity = {"name": "tiny", "fingerprint": "0123", "dtype": "float32", "attention": "sdpa"} | model
    rows = read_results(published(tmp_path))[:1]
    rows.attrs = {"model": identity, "plan": plan, "method_version": 2}
    save_results(rows, tmp_path / f"{file}.csv")
    return tmp_path / f"{file}.csv", rows.attrs


def test_two_models_of_one_name_are_not_mixed(tmp_path):
    first, _ = evaluation(tmp_path)
    other, _ = evaluation(tmp_path, "other", fingerprint="4567")
    third, _ = evaluation(tmp_path, "third", name="large", fingerprint="89ab")
    assert read_results([first, third]).attrs["models"] == ["tiny", "large"]
    with pytest.raises(InputError, match="of another model tiny than the files before it"):
        read_results([first, other])


def test_only_what_was_made_in_the_same_way_is_compared(tmp_path):
    file, beside = evaluation(tmp_path)
    assert len(read_evaluations(file, beside)) == 1
    for changed, words in (
        ({"model": beside["model"] | {"dtype": "bfloat16"}}, "made with dtype='float32', what it is compared with"),
        ({"plan": beside["plan"] | {"max_new_tokens": 9}}, "max_new_tokens=10: what mlp_output is compared with"),
    ):
        with pytest.raises(InputError, match=words):
            read_evaluations(file, beside | changed)
    json_of(file).write_text(json.dumps(beside | {"method_version": 1}))
    with pytest.raises(InputError, match="of version 1 of the method, not 2"):
        read_evaluations(file, beside)
    json_of(file).unlink()
    with pytest.raises(InputError, match="has no JSON beside it"):
        read_evaluations(file, beside)


def test_evaluations_are_found_in_their_order(tmp_path):
    with pytest.raises(InputError, match="no evaluation here"):
        evaluations(tmp_path)
    for name in ("hidden_state.csv", "other.csv", "mlp_output.csv"):
        (tmp_path / name).touch()
    assert [path.name for path in evaluations(tmp_path)] == ["mlp_output.csv", "hidden_state.csv"]


def test_committed_results_are_complete():
    """What is in data/ has the schema, the paper's grid, no gaps, and the JSON that made it."""
    for name, count in (("mlp_output", 2016), ("hidden_state", 3360)):
        path = ROOT / "data/smollm2-135m" / f"{name}.csv"
        rows = read_results(path)
        assert tuple(rows.columns) == (*ROW_COLUMNS, "first item") and len(rows) == count and rows["id"].is_unique
        assert [len(table) for table in check_grid(rows)] == [0, 0]
        assert json.loads(path.with_suffix(".json").read_text())["status"] == {"ok": count}
        assert np.isfinite(rows["score"]).all()


def test_committed_results_are_written_as_they_were_read(tmp_path):
    written = []
    for file in sorted((ROOT / "data/smollm2-135m").glob("*.csv*")):
        content = file.read_bytes()
        plain = gzip.decompress(content) if file.suffix == ".gz" else content
        if plain.startswith(b"source prompt,token,"):  # rows, not a table made of them
            save_results(read_results(file), tmp_path / "again.csv")
            assert (tmp_path / "again.csv").read_bytes() == plain, file.name
            written.append(file.name)
    assert len(written) >= 10, written


def test_what_is_no_evaluation_is_refused(tmp_path):
    """Another experiment's files stand in the same folder."""
    file, beside = evaluation(tmp_path)
    plan = beside["plan"]
    for about in (
        {"plans": [plan, plan]}, {"plan": plan | {"components": ["mlp_output", "hidden_state"]}},
        {"plan": {name: value for name, value in plan.items() if name != "token"}}, {"plan": plan, "model": "tiny"},
    ):  # fmt: skip
        json_of(file).write_text(json.dumps({"model": beside["model"], "method_version": 2} | about))
        with pytest.raises(InputError, match="results=.*expected readings of one component of prompts"):
            read_evaluations(file, beside)
    assert len(read_results(file)) == 1 and read_results(file).attrs["models"] == [], "its JSON only names a model"
