"""./runme.sh read and `helpers.read`: the table, the CSVs, chance, what is refused, and that a stopped run goes on."""

import os
import re
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from helpers import InputError, believed, load_model, read
from helpers.cli import main
from helpers.cli.read import MOST_LINES, table_of
from helpers.judging.judge import Judge
from helpers.runs.results import FIRST_ITEM, read_table
from helpers.words.rows import ROW_COLUMNS

TABLE = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
FEW = {"max_new_tokens": 4, "random": 3, "amplifiers": (1, 2, 3)}
OPTIONS = ["max_new_tokens=4", "random=3", "--amplifiers", "1,2,3"]


@pytest.fixture(autouse=True)
def own_work(monkeypatch, tmp_path):
    monkeypatch.setattr("helpers.runs.ledger.WORK", tmp_path / "work")


@pytest.fixture
def file(tmp_path):
    save_file({f"probe {row}": vector.clone() for row, vector in enumerate(TABLE)}, tmp_path / "probes.safetensors")
    return tmp_path / "probes.safetensors"


@pytest.fixture(scope="module")
def rows(tiny):
    return read(tiny, '"King" - "Man"; mlp.down[1, 3:5]', layers="0-1", **FEW)


def test_python_gives_rows_in_the_schema_without_scores(rows, tiny):
    assert list(rows)[: len(ROW_COLUMNS)] == list(ROW_COLUMNS)
    kinds = rows.groupby("token", sort=False).size().to_dict()
    assert kinds == {"expression": 2 * 3, "weight": 2 * 3, "random": 3 * 3, "": 1}
    assert rows[["score", "score first item", "score gold"]].isna().all(axis=None)
    assert set(rows.loc[rows["token"] == "weight", "layer"]) == {1} and set(rows.loc[rows["token"] == "random", "layer"]) == {-1}
    assert rows["id"].is_unique and rows["seed"].isna().all()
    assert rows.attrs["plans"][0]["vectors"]["count"] == 3 and "prompts" not in rows.attrs["plans"][0]
    assert rows.attrs["settings"]["random"] == 3


def test_what_is_believed_is_what_the_formulas_say(rows):
    """The table beside numbers that are worked out here, text by text."""
    judge = Judge()

    def cosine(a, b):
        return float(np.prod(judge.embedded([a, b]), axis=0).sum())

    def best(of):
        """Return (first item, contrast) of the reading that agrees most with the vector's others."""
        texts = [text for text in of[FIRST_ITEM] if re.search(r"\w\w", text)]
        if not texts:
            return None
        agreement = [
            np.mean([cosine(a, b) for j, b in enumerate(texts) if j != i]) if len(texts) > 1 else np.nan
            for i, a in enumerate(texts)
        ]
        at = 0 if len(texts) == 1 else int(np.argmax(np.round(agreement, 6)))
        name = of["source prompt"].iloc[0]
        pool = rows[(rows["token"] == "random") & (rows["source prompt"] != name)][FIRST_ITEM]
        return texts[at], agreement[at] - np.mean([cosine(texts[at], one) for one in pool if re.search(r"\w\w", one)])

    nothing = rows.loc[rows["component"] == "none", FIRST_ITEM].item()
    random = [best(of)[1] for _, of in rows[rows["token"] == "random"].groupby("source prompt")]
    table = believed(rows)
    assert len(table) == 4 and list(table["layer"]) == [0, 1, 1, 1]
    for _, row in table.iterrows():
        of = rows[(rows["source prompt"] == row["source prompt"]) & (rows["layer"] == row["layer"])]
        text, contrast = best(of)
        assert row["reading"] == text and row["contrast"] == pytest.approx(contrast, abs=1e-5)
        assert row["like nothing"] == pytest.approx(cosine(text, nothing), abs=1e-5)
        assert row["random"] == 3 and row["random as high"] == sum(one >= contrast - 1e-9 for one in random)
        assert row["chance"] == pytest.approx((row["random as high"] + 1) / 4, abs=1e-6)
        assert row["highest random"] == pytest.approx(max(random), abs=1e-5)
        others = [
            other["reading"] for _, other in table.iterrows() if other["source prompt"] != row["source prompt"]
        ]
        assert row["like the others"] == pytest.approx(np.mean([cosine(text, other) for other in others]), abs=1e-5)


def test_where_there_is_nothing_to_compare_with_numbers_are_empty(tiny):
    table = believed(read(tiny, '"King"', layers=1, amplifiers=(2,), random=0, max_new_tokens=4))
    [row] = table.to_dict("records")
    assert row["random"] == 0 and pd.isna(row["random as high"])
    assert all(np.isnan(row[name]) for name in ("agreement", "contrast", "chance", "like the others"))


def test_a_blank_reading_is_not_believed(rows):
    blank = rows.copy()
    of = blank.index[blank["source prompt"] == "mlp.down[1, 3]"]
    blank.loc[of[:2], FIRST_ITEM] = [" ", "a:\n\n"]
    table = believed(blank).set_index("source prompt")
    assert table.loc["mlp.down[1, 3]", "reading"] == rows.loc[of[2], FIRST_ITEM]
    blank.loc[of, FIRST_ITEM] = ""
    row = believed(blank).set_index("source prompt").loc["mlp.down[1, 3]"]
    assert row["status"] == "blank" and np.isnan(row["contrast"]) and row["random"] == 0


@pytest.mark.parametrize(("settings", "each"), [({}, False), ({"way": "plain"}, True), ({"target_layer": "same", "layer": 1}, True)])
def test_random_directions_are_of_each_vector_where_its_length_or_layer_matters(settings, each, tiny, file):
    rows = read(tiny, file, rows="0-1", **FEW, **settings)
    random = rows[rows["token"] == "random"]
    assert random["source prompt"].nunique() == (6 if each else 3)
    if each:
        assert set(random["source prompt"]) >= {"random 1 like probes:probe 0", "random 3 like probes:probe 1"}
        pairs = random.groupby(["source prompt", "amplification value", "target layer"])["rho"].first()
        own = rows[rows["token"] == "probe 1"].groupby(["amplification value", "target layer"])["rho"].first()
        assert np.allclose(pairs["random 2 like probes:probe 1"], own, rtol=1e-3)
    assert believed(rows)["random"].tolist() == [3, 3]


def test_the_command_prints_the_table_and_writes_both_csvs(file, tiny_folder, tmp_path, capsys):
    command = ["read", str(file), "--names", "probe 1,probe 3", *OPTIONS, "--model", str(tiny_folder), f"out_dir={tmp_path}"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "2 vectors beside 3 random directions, 16 readings" in said
    assert "probes:probe 1" in said and "probes:probe 0" not in said and "ρ·‖h‖·v/‖v‖" in said
    rows, table = read_table(tmp_path / "probes.csv").rows, pd.read_csv(tmp_path / "probes-believed.csv")
    same = read(load_model(str(tiny_folder)), file, names=("probe 1", "probe 3"), **FEW)
    assert rows["id"].tolist() == same["id"].tolist() and rows["result"].tolist() == same["result"].tolist()
    assert table["reading"].tolist() == believed(same)["reading"].tolist()
    for reading in table["reading"]:
        assert " ".join(reading.split())[:12] in " ".join(said.split())

    (tmp_path / "probes.csv").unlink()
    assert main(command) == 0  # from the ledger: nothing is read again
    assert read_table(tmp_path / "probes.csv").rows["id"].tolist() == rows["id"].tolist()


def test_a_stopped_run_goes_on_where_it_was(tiny_folder, tmp_path, monkeypatch, capsys):
    from helpers.engine.interpret import Reader

    command = ["read", '"King" - "Man"', "--layers", "0-2", *OPTIONS, f"model={tiny_folder}", f"out_dir={tmp_path}", "batch_size=4"]
    usual, batches = Reader.read, []

    def counting(self, start):
        batches.append(start)
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return usual(self, start)

    monkeypatch.setattr(Reader, "read", counting)
    assert main(command) == 130 and "this continues" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.csv")) and len(batches) == 2
    assert main(command) == 0 and len(batches) == 3 + 3 + 1  # batches of three plans: none was read twice
    [csv] = [one for one in tmp_path.glob("*.csv") if "believed" not in one.name]
    assert csv.name.startswith("king-man-") and len(read_table(csv).rows) == 3 * 3 + 3 * 3 + 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["King"], "expected prompts in quotes"),
        (["nowhere.npy"], "no such file"),
        (['"King"', "rows=0-3"], "only files take it"),
        (['"King"', "way=guidance"], "way='guidance'"),
        (['"King"', "colour=red"], "unknown"),
        (['"King"', "layers=0", "--layers", "1"], "given twice"),
        (['"King"', "--layers", "9"], "layers 0–2"),
        (["FILE", "--names", "probe"], "did you mean 'probe"),
        (["FILE", "--rows", "4"], "rows 0–3"),
        (["FILE", "rows=all"], "rows='all': expected rows, from 0"),
        (["FILE", "target_layer=same"], "is of no layer"),
        (["WIDE"], "5 numbers; .* width of 32"),
        (["FILE", "layer=3"], "layers 0–2"),
    ],
)
def test_what_is_wrong_is_said_before_the_weights_load(arguments, why, file, tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("helpers.models.load.load_model", lambda *_, **__: pytest.fail("the weights were loaded"))
    np.save(tmp_path / "wide.npy", np.ones((2, 5)))
    named = {"FILE": str(file), "WIDE": str(tmp_path / "wide.npy")}
    arguments = [named.get(one, one) for one in arguments]
    assert main(["read", *arguments, f"model={tiny_folder}"]) == 2
    assert re.search(why, capsys.readouterr().err)


def test_python_refuses_as_the_command_does(tiny):
    with pytest.raises(InputError, match="only files take it"):
        read(tiny, '"King"', names=("a",))
    with pytest.raises(InputError, match="no such file"):
        read(tiny, "nowhere.safetensors")


def test_a_vector_may_be_called_random_or_end_like_another(tiny, tmp_path):
    """What it is called never makes it chance, nor another vector's random directions its own."""
    names = ["Rome", "random", "what is like Rome"]  # as the file sorts them
    save_file({name: vector.clone() for name, vector in zip(names, TABLE, strict=False)}, tmp_path / "v.safetensors")
    rows = read(tiny, tmp_path / "v.safetensors", way="plain", **FEW)
    rows["source prompt"] = rows["source prompt"].str.replace("v:", "")  # as a name without its file would end
    table = believed(rows)
    assert sorted(table["source prompt"]) == names and set(table["random"]) <= {0, 3}
    assert (table["random"] == 3).any()


def test_of_many_vectors_those_with_the_highest_contrast_are_shown_and_without_contrasts_the_first():
    """Without random directions no vector has a contrast."""
    count = MOST_LINES + 5
    table = pd.DataFrame({
        "source prompt": [f"v{row}" for row in range(count)], "layer": 1, "target layer": 0, "amplification value": 1.0,
        "reading": "a word", "status": "ok", "contrast": np.nan, "random": 0, "random as high": pd.NA, "like nothing": 0.1,
    })  # fmt: skip

    def shown(table) -> list[str]:
        return [cell.plain for cell in table_of(table, "ρ").columns[0].cells]

    assert shown(table) == [f"v{row}" for row in range(MOST_LINES)]
    told = table.assign(contrast=[np.nan, *np.linspace(0.1, 0.9, count - 1)])
    assert shown(told) == [f"v{row}" for row in range(5, count)]
    heads = ["vector", "layer", "ρ", "reading", "contrast", "random", "nothing"]
    assert [column.header for column in table_of(told, "ρ").columns] == heads
    into = table_of(told.assign(**{"target layer": [7, *[0] * (count - 2), 3]}), "ρ").columns[2]
    assert into.header == "into" and {cell.plain for cell in into.cells} == {"0", "3"}, "of those that are shown"
