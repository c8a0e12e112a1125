"""A sweep: all rows of some plans as one table, scored, with what made it."""

import json

import pandas as pd
import pytest
from reading import read
from tables import QuickJudge, assert_same_but_for_rounding

from helpers import InputError
from helpers.runs.results import read_results, save_results
from helpers.runs.sweep import describe_judge, rows_of, sweep
from helpers.words.components import COMPONENTS
from helpers.words.plans import make_plan
from helpers.words.prompts import read_prompts
from helpers.words.rows import MAY_LACK, ROW_COLUMNS, Item, Reading
from helpers.words.target import TargetPrompt

SMALL = {"layers": [0, 1], "amplifiers": [1, 1.5, 3], "max_new_tokens": 3}


def test_where_it_was_patched_is_a_column_of_files_that_need_it(tiny, tmp_path):
    rows = sweep(tiny, ["Titanic"], **SMALL, target_component=["hidden_state", "mlp_output"])
    assert set(rows["target component"]) == {"", "mlp_output"} and rows["id"].is_unique
    save_results(rows, tmp_path / "rows.csv")
    assert "target component" in (tmp_path / "rows.csv").read_text().splitlines()[0]
    pd.testing.assert_frame_equal(read_results(tmp_path / "rows.csv"), rows)


def test_a_sweep_comes_back_unchanged(tiny, tmp_path):
    rows = sweep(tiny, ["Titanic", "Star Wars"], **SMALL, gold={"Titanic": "a film"})
    assert tuple(rows.columns) == (*ROW_COLUMNS, "first item")
    save_results(rows, tmp_path / "rows.csv")
    back = read_results(tmp_path / "rows.csv")
    assert back.attrs["models"] == ["tiny-llama"]
    pd.testing.assert_frame_equal(back, rows)
    lines = (tmp_path / "rows.csv").read_bytes()
    assert b"\r" not in lines and lines.decode("utf-8").splitlines()[0] == ",".join(name for name in ROW_COLUMNS if name not in MAY_LACK)
    assert {"1", "1.5", "3"} == set(pd.read_csv(tmp_path / "rows.csv", dtype=str)["amplification value"])
    about = json.loads((tmp_path / "rows.json").read_text())
    assert about["rows"] == 12 and about["status"] == {"ok": 12}
    assert about["model"]["fingerprint"] == tiny.fingerprint and about["batch_size"] >= 1
    assert about["judge"]["name"] == "all-MiniLM-L6-v2" and about["judge"]["gold"]


def test_the_rows_are_the_plan_s_with_their_readings(tiny):
    """Also of random vectors, which have a seed, beside others, which have none."""
    plan = make_plan(["Titanic"], ("mlp_output", "random[mlp_output]"), **SMALL, seed=5)
    rows = sweep(tiny, plan, judge=QuickJudge())
    pairs = read(tiny, plan)
    assert rows["result"].tolist() == [reading.result for _, reading in pairs]
    assert rows["rho"].tolist() == [reading.rho for _, reading in pairs]
    assert rows["id"].tolist() == [item.id for item in plan.items(tiny, tiny.identity)]
    assert rows["seed"].isna().tolist() == [item.component == "mlp_output" for item, _ in pairs]
    assert set(rows["seed"].dropna()) == {5}


def test_several_plans_are_one_table_and_one_progress(tiny):
    told = []
    plans = [make_plan("Titanic", layers=1, amplifiers=(1, 2, 3), max_new_tokens=2), make_plan("Star Wars", layers=2)]
    rows = sweep(tiny, plans, batch_size=2, progress=lambda *done: told.append(done), judge=QuickJudge())
    assert told == [(2, 9), (3, 9), (5, 9), (7, 9), (9, 9)]
    assert len(rows) == 9 and len(rows.attrs["plans"]) == 2 and "plan" not in rows.attrs
    alone = [sweep(tiny, plan, judge=QuickJudge()) for plan in plans]
    assert rows["id"].tolist() == [id for table in alone for id in table["id"]]


def test_a_first_item_ends_at_the_plan_s_separator(tiny, tmp_path):
    item = Item("Titanic", "ic", 1, 1.0, "mlp_output", 3, 1, "paper", None, "an id")
    reading = Reading(": an actor; a ship, a film")
    assert rows_of([item], [reading])["first item"].tolist() == ["an actor; a ship"]
    assert rows_of([item], [reading], TargetPrompt(stop="; "))["first item"].tolist() == ["an actor"]
    plan = make_plan("Titanic", layers=1, amplifiers=1, target_prompt=TargetPrompt(stop="e"))
    rows = sweep(tiny, plan, judge=QuickJudge())
    assert rows["first item"].tolist() == [rows["result"][0].split("e")[0].lstrip().removeprefix(":").lstrip()]
    save_results(rows, tmp_path / "rows.csv")
    assert read_results(tmp_path / "rows.csv")["first item"].tolist() == rows["first item"].tolist()


def test_a_judge_is_told_apart_by_what_it_judges_by():
    """Descriptions of prompts that aren't read don't count."""
    judge, gold = QuickJudge(), {"Titanic": "a film", "Star Wars": "a film, too"}
    assert describe_judge(judge) == {"name": "quick", "fingerprint": judge.fingerprint, "gold": ""}
    about = describe_judge(judge, gold, ["Titanic", "Titanic"])
    assert about["gold"] and about == describe_judge(judge, gold | {"Star Wars": "a saga"}, ["Titanic"])
    assert about != describe_judge(judge, gold | {"Titanic": "a ship"}, ["Titanic"])


def test_the_same_sweep_is_the_same_in_any_batches(tiny, tmp_path):
    prompts = read_prompts("data/prompts.csv", 8)
    for name, size in (("a", 64), ("b", 7)):
        settings = {"layers": [1], "amplifiers": [1.5], "max_new_tokens": 3, "batch_size": size}
        save_results(sweep(tiny, prompts, tuple(COMPONENTS), **settings), tmp_path / f"{name}.csv")
    assert_same_but_for_rounding(*((tmp_path / f"{name}.csv").read_bytes() for name in "ab"))


def test_no_plans_are_refused(tiny):
    with pytest.raises(InputError, match="prompts"):
        sweep(tiny, [])
