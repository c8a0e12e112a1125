"""Readings that are taken where they are finished, and made where they would come out otherwise."""

import gzip
import json
import os
from contextlib import contextmanager
from functools import partial

import pandas as pd
import pytest
from tables import QuickJudge, make_readings

from helpers import InputError
from helpers.experiments import guidance
from helpers.judging.judge import Judge
from helpers.runs import ledger
from helpers.runs.readings import Readings, score_folder
from helpers.runs.results import read_results
from helpers.runs.session import Session
from helpers.words.plans import make_plan
from helpers.words.settings import ModelSettings
from helpers.words.target import TargetPrompt

PLANS = [make_plan(["Titanic", "King Kong"], layers=2, amplifiers=[1, 3], max_new_tokens=4),
         make_plan("Titanic", "zero", 2, max_new_tokens=4)]  # fmt: skip
GOLD = {"Titanic": "Film about a ship", "King Kong": "Giant ape", "Star Wars": "Saga in space"}


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder for the ledgers and results of this test."""
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")
    return tmp_path


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    """The small model in memory, with a judge that takes no time."""
    return Session(ModelSettings.of({"model": str(tiny_folder)}), QuickJudge())


@pytest.fixture
def make(work, tiny_folder, loaded):
    """Make readings of the small model, as in a process that has it in memory, or as in a new one."""

    def readings(out_dir="a", fresh=False, judge=None, **settings):
        session = None if fresh or judge else loaded
        if session is None:
            options = {"dtype": settings["dtype"]} if "dtype" in settings else {}
            session = Session(ModelSettings.of({"model": str(tiny_folder)} | options), judge or QuickJudge())
        return make_readings(tiny_folder, work / out_dir, None, session, **settings)

    return readings


@contextmanager
def nothing_loaded(judging=False):
    """Fail if a model's weights are loaded, or a text is judged, within the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helpers.models.load.load_model", lambda *_, **__: pytest.fail("weights are not needed"))
        if not judging:
            patch.setattr(QuickJudge, "embed", lambda *_: pytest.fail("nothing is to be judged"))
        yield


def files_of(folder):
    """Return each file's bytes and when it was changed."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def forget_ledgers(work):
    """Leave the finished files as the only copy."""
    (work / "work").rename(work / f"gone-{len(list(work.iterdir()))}")


def test_what_is_finished_is_taken_as_it_is(make, work):
    """As in a notebook after the command has read: nothing is loaded, nothing is written."""
    first = make().of("some.csv.gz", PLANS, GOLD)
    forget_ledgers(work)
    before, again = files_of(work), make(fresh=True)
    with nothing_loaded():
        rows = again.of("some.csv.gz", PLANS, GOLD)
    pd.testing.assert_frame_equal(rows, first)
    assert rows.attrs == first.attrs and not again.session.has_weights
    assert files_of(work) == before and not (work / "work").exists()


def test_what_is_finished_needs_no_writable_folder(make, work, monkeypatch):
    """As results that somebody else has published."""
    make().of("some.csv", PLANS)
    (work / "a").chmod(0o500)
    monkeypatch.setattr("helpers.runs.readings.check_writable", lambda folder: pytest.fail("it need not be writable"))
    try:
        assert len(make(fresh=True).of("some.csv", PLANS)) == 5
    finally:
        (work / "a").chmod(0o700)


def cut(file):
    """Take the last row off a table."""
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    file.write_bytes(gzip.compress(b"".join(lines[:-1])))


def change_a_text(file):
    text = gzip.decompress(file.read_bytes()).decode()
    file.write_bytes(gzip.compress(text.replace("\n", "x\n", 1).encode()))


def age(file, **versions):
    """Let other versions of libraries have made it."""
    about = file.with_name("some.json")
    said = json.loads(about.read_text())
    about.write_text(json.dumps(said | {"versions": said["versions"] | versions}))


@pytest.mark.parametrize(
    "damage",
    [cut, change_a_text, lambda file: file.write_bytes(b"no gzip"), lambda file: file.with_name("some.json").unlink(),
     lambda file: age(file, torch="1.0"), lambda file: age(file, pandas="1.0")],
    ids=["cut", "changed", "broken", "no JSON", "other torch", "other pandas"],
)  # fmt: skip
def test_what_is_not_as_it_was_written_is_made_again(make, work, damage):
    make().of("some.csv.gz", PLANS, GOLD)
    file = work / "a" / "some.csv.gz"
    whole = file.read_bytes()
    damage(file)
    rows = make().of("some.csv.gz", PLANS, GOLD)
    assert file.read_bytes() == whole and len(rows) == 5
    assert json.loads((work / "a" / "some.json").read_text())["versions"]["torch"] != "1.0"


class OtherJudge(QuickJudge):
    name, fingerprint = "other", "f" * 16

    def embed(self, texts):
        return super().embed([f"other {text}" for text in texts])


def test_other_descriptions_or_another_judge_score_anew(make, work):
    """From the ledger: the texts are not read again."""
    first = make().of("some.csv", PLANS, GOLD)
    with nothing_loaded():
        same = make(fresh=True).of("some.csv", PLANS, GOLD | {"Star Wars": "of a prompt that isn't read"})
    assert same.equals(first)
    with nothing_loaded(judging=True):
        other = make(fresh=True).of("some.csv", PLANS, GOLD | {"Titanic": "Ship"})
        judged = make(judge=OtherJudge()).of("some.csv", PLANS, GOLD)
    assert other["score gold"].tolist() != first["score gold"].tolist()
    assert other["score"].tolist() == first["score"].tolist()
    assert judged["score"].tolist() != first["score"].tolist() and judged["result"].tolist() == first["result"].tolist()
    assert json.loads((work / "a" / "some.json").read_text())["judge"]["name"] == "other"


def test_another_separator_scores_first_items_anew(make):
    """It is in no id: the texts stay the same."""
    first, plan = {}, partial(make_plan, "Titanic", layers=2, amplifiers=1, max_new_tokens=8)
    for stop in (", ", "e"):
        rows = make().of("some.csv", [plan(target_prompt=TargetPrompt(stop=stop))])
        first[stop] = rows["first item"][0]
        assert rows["first item"][0] == rows["result"][0].split(stop)[0].lstrip().removeprefix(":").lstrip()
    assert first[", "] != first["e"]


def test_readings_are_made_once_and_taken_from_elsewhere_after_that(make, work):
    first = make("a").of("some.csv.gz", PLANS, GOLD)
    file = work / "a" / "some.csv.gz"
    assert len(first) == 5 == len(read_results(file)) and first["score gold"].notna().all()
    forget_ledgers(work)
    with nothing_loaded():
        again = make("b", fresh=True, reuse=str(work / "a")).of("some.csv.gz", PLANS, GOLD)
    assert (work / "b" / "some.csv.gz").read_bytes() == file.read_bytes()
    assert (work / "b" / "some.json").read_text() == (work / "a" / "some.json").read_text()
    pd.testing.assert_frame_equal(again, first)
    assert again.attrs["model"] == first.attrs["model"] and len(again.attrs["plans"]) == 2
    with nothing_loaded(judging=True):
        other = make("c", fresh=True, reuse=str(work / "a")).of("some.csv.gz", PLANS, GOLD | {"Titanic": "Ship"})
    assert other["score gold"].tolist() != first["score gold"].tolist(), "scores are computed anew"
    assert b"score gold" in gzip.decompress(file.read_bytes())


def test_a_file_of_earlier_code_is_taken_too(make, work):
    """It has neither a digest nor settings in its JSON, nor a digest of the descriptions."""
    make("a").of("some.csv", PLANS, GOLD)
    about = json.loads((work / "a" / "some.json").read_text())
    old = {name: value for name, value in about.items() if name not in ("settings", "csv")}
    (work / "a" / "some.json").write_text(json.dumps(old | {"judge": {"name": "quick", "fingerprint": "0" * 16}}))
    forget_ledgers(work)
    with nothing_loaded(judging=True):
        make("b", fresh=True, reuse=str(work / "a")).of("some.csv", PLANS, GOLD)
    assert json.loads((work / "b" / "some.json").read_text()) == about
    assert (work / "b" / "some.csv").read_bytes() == (work / "a" / "some.csv").read_bytes()


@pytest.mark.parametrize(
    "change", [{"amplifiers": [1, 4]}, {"max_new_tokens": 9}, {"target_layer": 0}, {"layers": 1}, "dtype", "cut"]
)
def test_readings_that_would_come_out_otherwise_are_made(make, work, change, monkeypatch):
    settings = {"prompts": ["Titanic"], "layers": 2, "amplifiers": [1, 3], "max_new_tokens": 4}
    make("a").of("some.csv.gz", [make_plan(**settings)])
    forget_ledgers(work)
    if change == "cut":
        cut(work / "a" / "some.csv.gz")
    options = {"dtype": "bfloat16", "fresh": True} if change == "dtype" else {}
    wanted = [make_plan(**settings | (change if isinstance(change, dict) else {}))]
    asked = []
    monkeypatch.setattr("helpers.runs.loop.finish", lambda *args, **kwargs: asked.append(1) or pytest.skip("made"))
    with pytest.raises(pytest.skip.Exception):
        make("b", reuse=str(work / "a"), **options).of("some.csv.gz", wanted)
    assert asked


def test_failed_rows_are_tried_once_by_a_command_and_its_notebook(make, work):
    """Elsewhere, who asks again tries them again."""
    plan, staging = make_plan("Titanic", layers=1, amplifiers=1, max_new_tokens=3), "work/model/staging-0123abcd"
    here = make(staging)
    breaking = [True]

    def fails(*_):
        if breaking:
            raise ValueError("a broken kernel")

    here.session.prompt_for(plan)  # read before the model breaks
    here.session.sources_for(plan)["Titanic"]
    handle = here.lm.blocks[1].register_forward_hook(fails)
    try:
        for out_dir in (staging, "a"):
            assert set(make(out_dir).of("some.csv", [plan])["status"]) == {"error"}
        breaking.clear()
        assert set(make(staging).of("some.csv", [plan])["status"]) == {"error"}
        assert set(make("a").of("some.csv", [plan])["status"]) == {"ok"}
    finally:
        handle.remove()


def test_an_experiment_s_readings_say_with_which_settings_they_were_made(work, tiny_folder, loaded):
    settings = guidance.Settings.of(
        {"model": str(tiny_folder), "out_dir": str(work / "a"), "layers": "1-2", "amplifiers": "0:2:1", "batch_size": 3}
    )
    rows = Readings(settings, loaded, bar=None).read(guidance)
    assert len(rows) == 2 * (2 * 3 + 2) and rows["score gold"].notna().all()
    about = json.loads((work / "a" / "guidance.json").read_text())
    assert about["settings"] == json.loads(json.dumps(settings.shown())) == rows.attrs["settings"]
    assert about["settings"]["amplifiers"] == [0, 1, 2] and "batch_size" not in about["settings"]


def test_several_experiments_share_a_model_and_a_judge(work, tiny_folder, monkeypatch):
    from helpers.models import load

    loads, load_model = [], load.load_model
    monkeypatch.setattr(load, "load_model", lambda *args, **options: loads.append(args) or load_model(*args, **options))
    session = Session(ModelSettings.of({"model": str(tiny_folder)}), QuickJudge())
    tables = {}
    for name in ("one.csv", "two.csv"):
        readings = make_readings(tiny_folder, work / "a", None, session)
        tables[name] = readings.of(name, PLANS[::-1] if name == "two.csv" else PLANS)
    assert len(loads) == 1 and readings.lm is session.lm and readings.judge is session.judge
    assert sorted(tables["one.csv"]["result"]) == sorted(tables["two.csv"]["result"])


def test_a_session_of_another_model_is_refused(work, tiny_folder, loaded):
    with pytest.raises(ValueError, match="the session has another dtype: 'float32'"):
        make_readings(tiny_folder, work, None, loaded, dtype="bfloat16")
    with pytest.raises(ValueError, match="the session has another model"):
        make_readings("smollm2-135m", work, None, loaded)


def test_a_folder_that_cannot_be_written_is_found_before_the_weights_load(make, work):
    (work / "file").touch()
    with nothing_loaded(), pytest.raises(InputError, match="out_dir=.*can't be written"):
        make("file", fresh=True).of("some.csv", PLANS)


def test_a_plan_that_does_not_fit_the_model_is_refused_before_the_weights_load(make):
    with nothing_loaded(), pytest.raises(InputError, match="layers=7: this model has layers 0–2"):
        make(fresh=True).of("some.csv", [make_plan("Titanic", layers=7)])


def test_a_folder_is_scored_by_another_judge(make, work):
    """Nothing but readings; descriptions come from whoever knows them."""
    make().of("some.csv.gz", PLANS, GOLD)
    make().of("other.csv", PLANS[1:])
    (work / "a" / "found.csv").write_text("component\nx\n")
    (work / "a" / "found.json").write_text('{"model": "tiny"}')
    asked = []
    written = score_folder(
        work / "a", OtherJudge(), work / "b", lambda name, settings: asked.append((name, settings["dtype"])) or GOLD
    )
    assert [path.name for path in written] == ["other.csv", "some.csv.gz"]
    assert asked == [("other.csv", "float32"), ("some.csv.gz", "float32")]
    before, now = (read_results(work / folder / "some.csv.gz") for folder in "ab")
    assert now["result"].tolist() == before["result"].tolist() and now["score"].tolist() != before["score"].tolist()
    about = [json.loads((work / folder / "some.json").read_text()) for folder in "ab"]
    assert about[1]["judge"] == {"name": "other", "fingerprint": "f" * 16, "gold": about[0]["judge"]["gold"]}
    fresh = make("c", judge=OtherJudge()).of("some.csv.gz", PLANS, GOLD)
    assert (work / "c" / "some.csv.gz").read_bytes() == (work / "b" / "some.csv.gz").read_bytes() and len(fresh) == 5
    with pytest.raises(InputError, match="holds no readings"):
        list(score_folder(work, OtherJudge(), work / "b"))


def test_the_real_judge_is_used_where_none_is_given(work, tiny_folder):
    readings = make_readings(tiny_folder, work / "a")
    rows = readings.of("some.csv", PLANS[1:], {"Titanic": "Film about a ship"})
    judge = Judge()
    assert readings.judge.fingerprint == judge.fingerprint == rows.attrs["judge"]["fingerprint"]
    assert rows["score"][0] == pytest.approx(judge.similarity(rows["result"], rows["source prompt"])[0], abs=1e-6)
    assert sorted(os.listdir(work / "a")) == ["some.csv", "some.json"]


def test_a_session_s_judge_is_that_of_its_experiments(work, tiny_folder, loaded):
    """A judge that was given stays; one that only some settings name is no session's."""
    settings = ModelSettings.of({"model": str(tiny_folder)})
    other = {"judge": str(work)}
    assert make_readings(tiny_folder, work, None, loaded, **other).judge is loaded.judge
    with pytest.raises(ValueError, match="the session has another judge"):
        make_readings(tiny_folder, work, None, Session(settings), **other)
    with pytest.raises(InputError, match="judge="):
        make_readings(tiny_folder, work / "a", **other).of("some.csv", PLANS)
    assert not list(work.iterdir()), "it was refused before anything was done"
