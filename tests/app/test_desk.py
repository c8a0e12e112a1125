"""The application without a browser: its requests equal a sweep, never mix, and survive whatever goes wrong."""

import gc
import json
import re
import threading
import time
import weakref

import pandas as pd
import pytest
from serving import PROMPT, as_read, over, served, usual_settings

from helpers import InputError, believe, label, sweep
from helpers.app import view
from helpers.app.answers import answer
from helpers.app.desk import SHARE, Desk
from helpers.app.jobs import Question
from helpers.app.panel import Panel
from helpers.runs.readings import Readings
from helpers.runs.results import save_results
from helpers.words.plans import make_plan
from helpers.words.settings import DEFAULT_MODEL, ReadSettings

pytestmark = pytest.mark.usefixtures("no_runs")


@pytest.fixture(scope="module")
def desk(tiny_folder, no_runs):
    desk = Desk(str(tiny_folder)).open()
    yield desk
    desk.close()


@pytest.fixture(scope="module")
def usual(tiny_folder):
    return usual_settings(tiny_folder).replace(max_new_tokens=4)


def test_a_wrong_setting_is_refused_and_breaks_nothing(desk, usual):
    with pytest.raises(InputError, match="layers=9: this model has layers 0–2"):
        desk.submit(usual.replace(layers="9"))
    with pytest.raises(InputError, match="model='elsewhere': expected one of"):
        desk.submit(usual.replace(model="elsewhere"))
    assert served(desk, usual).state == "done"


def test_the_csv_is_the_one_of_a_sweep(desk, usual, tiny, tmp_path):
    settings = usual.replace(tokens=(2, -1), components=("hidden_state", "mlp_output"), max_new_tokens=7)
    job = served(desk, settings)
    rows = sweep(
        tiny, PROMPT, ("mlp_output", "hidden_state"), "0-2", (1, 3, 9), token=[2, -1], target_layer="same",
        max_new_tokens=7,
    )  # fmt: skip
    save_results(as_read(job.rows), tmp_path / "app.csv")
    save_results(rows, tmp_path / "sweep.csv")
    assert (tmp_path / "app.csv").read_bytes() == (tmp_path / "sweep.csv").read_bytes()
    about, other = (json.loads((tmp_path / name).read_text()) for name in ("app.json", "sweep.json"))
    # amplifiers and layers as they were typed: what a sweep makes of the same texts
    assert about["plan"] == other["plan"] and about["whole"]
    assert about["judge"] == other["judge"] and about["model"] == other["model"]
    assert about["settings"]["amplifiers"] == "1, 3, 9" and about["settings"]["tokens"] == [2, -1]


def test_the_python_lines_give_the_same_rows(desk, usual):
    settings = usual.replace(
        tokens=(0,), target_prompt="Oslo: Capital of {Norway}, and", target_layer="1", layers="0,2",
        amplifiers="1:3:1",
    )  # fmt: skip
    job = served(desk, settings)
    made = {}
    exec(settings.python(desk.card(settings.model), desk.dtype), made)
    pd.testing.assert_frame_equal(made["rows"], as_read(job.rows))
    assert made["rows"].attrs["plan"] == json.loads(json.dumps(job.rows.attrs["plan"]))


def test_what_a_run_has_read_is_not_read_again(tiny_folder, usual, tmp_path, request):
    """A notebook's run, stopped or not, leaves its rows for the page."""
    plan = make_plan(PROMPT, "hidden_state", layers="0-1", amplifiers=(1, 3, 9), max_new_tokens=4)
    settings = ReadSettings.of({"model": str(tiny_folder), "out_dir": str(tmp_path)})
    rows = Readings(settings).of("hidden_state.csv", [plan])
    desk = Desk(str(tiny_folder)).open()
    request.addfinalizer(desk.close)
    job = served(desk, usual.replace(components=("hidden_state",), layers="0-1"))
    assert (job.state, job.known, job.read) == ("done", 6, 0)
    pd.testing.assert_frame_equal(as_read(job.rows), rows, check_exact=True)


def test_a_longer_request_reads_only_what_is_new(desk, usual, tiny):
    first = served(desk, usual.replace(amplifiers="1.5, 4, 8", layers="all", tokens=(0, 1, 2)))
    assert (first.known, first.read, len(first.readings)) == (0, 81, 81)
    again = served(desk, first.settings)
    assert (again.known, again.read, len(again.readings)) == (81, 0, 81)
    longer = served(desk, Panel.rest_of(first))
    assert (longer.known, longer.read, len(longer.readings)) == (81, 162 - 48, 162)  # the first batch was all known
    components = ("pre_mlp_residual", "mlp_output", "hidden_state")
    whole = sweep(tiny, PROMPT, components, "all", (1.5, 4, 8), token=[*range(6)], max_new_tokens=4)
    pd.testing.assert_frame_equal(as_read(longer.rows), whole)


def test_stop_keeps_what_was_read_and_the_next_request_goes_on(desk, usual, tiny):
    settings = usual.replace(amplifiers="1:15:0.5")
    job = desk.submit(settings)
    while not job.read and not job.is_over:
        time.sleep(0.005)
    desk.stop(job)
    over(desk, job)
    assert job.state == "stopped" and 0 < len(job.rows) == len(job.readings) < len(job.items)
    assert not job.rows.attrs["whole"] and job.rows["score"].notna().all()
    assert "Stopped after" in view.status(desk, job)
    rest = served(desk, settings)
    assert rest.state == "done" and rest.read < len(rest.items) == len(rest.rows)
    pd.testing.assert_frame_equal(as_read(rest.rows), sweep(tiny, rest.plan))


def test_requests_are_served_in_turn_and_do_not_mix(desk, usual, held):
    prompts = ("Titanic", PROMPT, "Kill Bill")
    jobs = [desk.submit(usual.replace(prompt=prompt, amplifiers=f"1:{10 + i}:1")) for i, prompt in enumerate(prompts)]
    ahead = [desk.count_ahead(job) for job in jobs]
    assert ahead == sorted(ahead) and ahead[-1] >= 1
    assert "served first" in view.status(desk, jobs[-1])
    held.set()
    for job, prompt in zip(jobs, prompts, strict=True):
        assert over(desk, job).state == "done" and set(job.rows["source prompt"]) == {prompt}


def test_all_in_turns_are_ahead_of_who_needs_another_model(tiny_folder, usual):
    """Of those that need the model in memory, only the one whose batch is read is ahead."""
    desk = Desk(str(tiny_folder))  # not open: the test takes its turns
    in_turns = [desk.submit(usual.replace(amplifiers=str(number))) for number in (1, 2, 3)]
    for job in in_turns:
        desk._queue.remove(job)
        job.state = "reading"
    same = desk.submit(usual)
    other = desk.submit(usual.replace(model=DEFAULT_MODEL))
    behind = desk.submit(usual)
    assert [desk.count_ahead(job) for job in (same, other, behind)] == [1, 4, 5]
    assert "Waiting: 4 requests are served first" in view.status(desk, other)


def test_the_first_view_is_laid_out_while_nobody_looks_through_the_requests(tiny_folder, usual, monkeypatch):
    desk = Desk(str(tiny_folder))
    job = desk.prepare(usual)
    monkeypatch.setattr("helpers.app.desk.kept", lambda *_: job)
    laying = threading.Thread(target=desk._lay_out)
    with desk._changed:
        laying.start()
        laying.join(0.5)
        assert laying.is_alive() and not desk._jobs
    laying.join(60)
    assert desk.find(job.id) is job and desk.is_laid_out


def test_a_model_is_loaded_though_what_is_kept_cannot_be_read(tiny_folder, monkeypatch):
    def unreadable(*_):
        raise InputError("results", "first view", "not a CSV file")

    monkeypatch.setattr("helpers.app.desk.kept", unreadable)
    desk = Desk(str(tiny_folder)).open()
    try:
        while not desk.is_ready:
            time.sleep(0.01)
        assert desk.is_laid_out and desk.loaded == str(tiny_folder) and "is ready" in view.status(desk, None)
    finally:
        desk.close()


def test_a_row_that_fails_is_a_row(desk, usual):
    job = served(desk, usual.replace(amplifiers="1, 1e30", target_layer="2", components=("hidden_state",)))
    assert job.state == "done"
    assert len(job.rows) == 6 and set(job.rows["status"]) <= {"ok", "nonfinite"}


def test_equal_requests_wait_in_turn_and_a_waiting_one_can_be_stopped(desk, usual, held):
    busy = desk.submit(usual.replace(amplifiers="1:20:0.5"))
    equal = [desk.submit(usual.replace(amplifiers="77")) for _ in range(3)]
    ahead = [desk.count_ahead(job) for job in equal]
    assert ahead == [ahead[0], ahead[0] + 1, ahead[0] + 2]
    desk.stop(equal[0])
    assert equal[0].state == "stopped" and desk.count_ahead(equal[1]) == ahead[0]
    assert "Stopped after 0 of 9 readings" in view.status(desk, equal[0])
    desk.stop(busy)
    held.set()
    over(desk, equal[1]), over(desk, equal[2])
    assert [job.state for job in equal] == ["stopped", "done", "done"] and equal[2].known == 9


def test_a_request_that_breaks_keeps_what_it_read(desk, usual, monkeypatch, capsys):
    take = Desk._take

    def break_at_the_second_batch(self, job, *more):
        if job.readings:
            raise RuntimeError("<i>the disk</i> is on fire")
        take(self, job, *more)

    monkeypatch.setattr(Desk, "_take", break_at_the_second_batch)
    job = served(desk, usual.replace(amplifiers="1.125:160:1"))
    assert job.state == "failed" and "&lt;i&gt;the disk&lt;/i&gt; is on fire" in view.status(desk, job)
    assert 0 < len(job.rows) < len(job.items) and not job.rows.attrs["whole"]
    assert "RuntimeError" in capsys.readouterr().err


def test_a_full_queue_is_reported(desk, usual, monkeypatch):
    monkeypatch.setattr("helpers.app.desk.MOST_WAITING", 0)
    with pytest.raises(InputError, match="queue='0 requests wait': try again"):
        desk.submit(usual)


def test_a_visitor_has_a_share_of_the_queue(desk, usual, held):
    """Whoever asks for more than the share is refused; the others are not."""
    own = [desk.submit(usual.replace(amplifiers=str(i + 2)), "one") for i in range(SHARE)]
    with pytest.raises(InputError, match="queue='5 requests of yours wait': let one of them end"):
        desk.submit(usual, "one")
    with pytest.raises(InputError, match="of yours wait"):
        desk.ask(usual.replace(layers="1", amplifiers="3"), "a, b", "one")
    other = desk.submit(usual, "another")
    desk.stop(own[-1])
    again = desk.submit(usual, "one")
    held.set()
    assert [over(desk, job).state for job in (*own[:-1], other, again)] == ["done"] * (SHARE + 1)


def test_a_small_request_is_done_while_a_large_one_before_it_is_read(desk, usual, tiny):
    large = desk.submit(usual.replace(amplifiers="1:25:0.25"))
    while not large.readings:
        time.sleep(0.005)
    small = over(desk, desk.submit(usual.replace(amplifiers="77", prompt="Kill Bill")))
    assert small.state == "done" and not large.is_over and len(large.readings) < len(large.items) / 2
    pd.testing.assert_frame_equal(as_read(over(desk, large).rows), sweep(tiny, large.plan))


def test_a_stop_does_not_wait_for_a_batch(desk, usual, monkeypatch):
    """What was read of a batch when the stop came is left out."""
    job = desk.submit(usual.replace(max_new_tokens=30, amplifiers="1.25:30:0.5"))
    job.stop.set()  # before its first token
    assert over(desk, job).state == "stopped" and not job.readings
    stopped = []
    monkeypatch.setattr(threading.Event, "is_set", lambda event: stopped.append(event) or len(stopped) > 3)
    job = over(desk, desk.submit(usual.replace(max_new_tokens=30, amplifiers="1.25:30:0.5")))
    monkeypatch.undo()
    assert job.state == "stopped" and not job.readings and len(stopped) < 10


def test_long_readings_are_limited_by_their_tokens(desk, usual, monkeypatch):
    monkeypatch.setattr("helpers.app.settings.MOST_TOKENS", 9000)
    with pytest.raises(InputError, match="1,071 readings; at most 300 here"):
        desk.submit(usual.replace(max_new_tokens=30, amplifiers="1:60:0.5"))


@pytest.mark.slow
def test_only_the_last_model_stays_in_memory(tiny_folder, usual):
    desk = Desk(str(tiny_folder)).open()
    try:
        served(desk, usual)
        first = weakref.ref(desk._session.lm.model)
        assert served(desk, usual.replace(model=DEFAULT_MODEL, layers="1", amplifiers="1")).state == "done"
        gc.collect()
        assert desk.loaded == DEFAULT_MODEL and first() is None
    finally:
        desk.close()


def test_a_model_that_cannot_be_loaded_harms_no_other(tiny_folder, usual, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    desk = Desk(str(broken)).open()
    try:
        while not desk.is_ready:
            time.sleep(0.01)
        assert "its weights can&#x27;t be loaded" in view.status(desk, None)
        job = served(desk, usual.replace(model=str(broken)))
        assert job.state == "failed" and 'role="alert"' in view.status(desk, job)
        assert served(desk, usual.replace(model=DEFAULT_MODEL, layers="1", amplifiers="1")).state == "done"
    finally:
        desk.close()


def test_what_is_kept_is_bounded(desk, usual, monkeypatch):
    monkeypatch.setattr("helpers.app.desk.MOST_KEPT", 30)
    forgotten = []
    monkeypatch.setattr(desk, "forget", forgotten.append)
    old = served(desk, usual.replace(amplifiers="1, 41"))
    for i in range(3):
        new = served(desk, usual.replace(amplifiers=f"1, 5{i}"))
    assert desk.find(old.id) is None and desk.find(new.id) is new and desk.find("nonsense") is None
    assert old.id in forgotten


# Weighed without the prompt


def blind(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["chosen"].str.contains("blind")]


def test_the_blind_reading_is_the_one_of_python(desk, usual, tiny):
    job = served(desk, usual)
    best = believe(tiny, sweep(tiny, job.plan))
    chosen = blind(job.rows)
    assert chosen["id"].tolist() == best["id"].tolist() and len(chosen) == 9
    assert chosen["mean_rank"].tolist() == best["mean_rank"].tolist() and chosen["confidence"].isna().all()
    assert set(chosen["verdict"]) == {"uncalibrated"} and set(job.rows["verdict"]) == {"uncalibrated", ""}
    assert job.rows.attrs["weighed"] == {"references": "data/prompts.csv", "calibration": None}
    vector = ["component", "layer"]
    best_score = job.rows[job.rows["amplification value"] != 1].groupby(vector)["score"].max()
    similar = job.rows[job.rows["chosen"].str.contains("similarity")].set_index(vector)
    assert (similar["amplification value"] != 1).all() and similar.index.is_unique and len(similar) == len(best_score)
    assert similar["score"].sort_index().tolist() == pytest.approx(best_score.sort_index().tolist(), abs=1e-3), "the paper's"
    made = {}
    exec(job.settings.python(desk.card(job.settings.model), desk.dtype), made)
    assert made["chosen"]["id"].tolist() == chosen["id"].tolist()


@pytest.mark.slow
def test_probabilities_are_those_of_python_where_something_was_fitted(usual, lm):
    desk = Desk(DEFAULT_MODEL).open()
    asked = usual.replace(
        model=DEFAULT_MODEL, components=("mlp_output", "hidden_state", "attention_output"), layers="5",
        amplifiers="1, 2", target_layer="0", max_new_tokens=10,
    )  # fmt: skip
    try:
        job = served(desk, asked)
        other = served(desk, asked.replace(target_prompt="Oslo: Capital of Norway, Titanic: ship, {x}", layers="2"))
    finally:
        desk.close()
    best, chosen = believe(lm, sweep(lm, job.plan)), blind(job.rows)
    assert chosen["id"].tolist() == best["id"].tolist() and chosen["verdict"].tolist() == best["verdict"].tolist()
    pd.testing.assert_series_equal(chosen["confidence"], best["confidence"], atol=2e-3, rtol=0)
    assert (chosen["confidence"].notna() == (chosen["component"] == "hidden_state")).all(), "MLP outputs are fitted elsewhere"
    page = view.table(job, 5)
    assert f"{100 * chosen['confidence'].dropna().item():.0f} % · α" in page and "uncalibrated · rank" in page
    assert "fitted on 250 entities (hidden states into layer 0)" in page
    assert "tells: the most likely right, or where nothing was fitted, the best mean rank." in page
    assert set(blind(other.rows)["verdict"]) == {"uncalibrated"}, "nothing was fitted for another target prompt"
    assert "fitted on 250" not in view.table(other, 5)


def test_a_stop_while_weighing_keeps_what_was_read(desk, usual, monkeypatch):
    from helpers.app.weighing import Weigher

    evidence = Weigher.evidence

    def stop_after_a_part(self, *given):
        for part in evidence(self, *given):
            desk.stop(job)
            yield part

    monkeypatch.setattr("helpers.app.weighing.PART", 5)
    monkeypatch.setattr(Weigher, "evidence", stop_after_a_part)
    asked = usual.replace(amplifiers="1.25, 3.25, 9.25")
    job = desk.submit(asked)
    over(desk, job)
    assert job.state == "stopped" and len(job.rows) == len(job.items) and not job.weighed and len(job.evidence) == 5
    assert "stopped before they were weighed" in view.status(desk, job)
    assert "weighing was stopped" in view.table(job, 5) and set(job.rows["chosen"]) == {"", "similarity"}
    monkeypatch.setattr(Weigher, "evidence", evidence)
    again = served(desk, asked)
    assert (again.state, again.read, len(again.weighed)) == ("done", 0, 27)


def test_what_was_weighed_is_not_weighed_again(desk, usual, monkeypatch):
    from helpers.judging.evidence import Witness

    asked = usual.replace(amplifiers="1, 2.5, 9.5")
    first = served(desk, asked)
    monkeypatch.setattr(Witness, "of", lambda *_: pytest.fail("it is known"))
    again = served(desk, asked)
    assert again.weighed.keys() == first.weighed.keys() and again.rows["chosen"].tolist() == first.rows["chosen"].tolist()


def test_readings_that_cannot_be_weighed_are_shown_and_kept(desk, usual, monkeypatch, capsys):
    from helpers.judging.evidence import Witness

    def fail(*_):
        raise RuntimeError("the <i>scales</i> are broken")

    monkeypatch.setattr(Witness, "of", fail)
    job = served(desk, usual.replace(amplifiers="1, 4.5"))
    page = view.table(job, 5)
    assert job.state == "done" and len(job.rows) == 18 and job.rows["mean_rank"].isna().all()
    assert "They could not be weighed: an error in this program" in page and "&lt;i&gt;scales" in page
    assert "RuntimeError" in capsys.readouterr().err


def test_with_a_single_amplifier_there_is_nothing_to_choose_among(desk, usual):
    page = view.table(served(desk, usual.replace(amplifiers="3", components=("mlp_output",), layers="1")), 5)
    assert "there is nothing to choose among" in page and "the only one" in page and "· rank" not in page


def test_a_question_is_answered_as_in_python(desk, usual, tiny):
    one = usual.replace(components=("hidden_state",), layers="1", amplifiers="1.5", target_layer="0")
    question = over(desk, desk.ask(one, "person, a rock band,country"))
    wanted = label(tiny, PROMPT, ["person", "a rock band", "country"], layers=1, amplifiers=1.5)
    assert question.state == "done" and question.rows.attrs["references"] == 47
    pd.testing.assert_frame_equal(question.rows, wanted, atol=1e-4, rtol=0)
    page = answer(desk, question)
    likeliest_first = list(wanted.sort_values("probability", ascending=False)["label"])
    assert re.findall(r'<th scope="row">([^<]*)<', page) == likeliest_first
    assert "as in “: person”" in page and "α = 1.5" in page and "47 other prompts" in page
    of_reference = over(desk, desk.ask(one.replace(prompt="titanic "), "a, b"))
    assert of_reference.rows.attrs["references"] == 47  # without Titanic itself, of 48
    assert desk.find(question.id) is None and desk.find(question.id, Question) is question


def test_wrong_labels_are_refused_at_once(desk, usual):
    for labels, words in (("band", "expected 2 to 50"), ("a, A", "labels='A': given twice"), (["a", 5], "labels=5")):
        with pytest.raises(InputError, match=words):
            desk.ask(usual, labels)
    with pytest.raises(InputError, match="layers=9: this model has layers 0–2"):
        desk.ask(usual.replace(layers="9"), "a, b")


def test_a_question_waits_in_turn_and_can_be_stopped(desk, usual, held):
    busy = desk.submit(usual.replace(amplifiers="1:15:0.25"))
    one = usual.replace(layers="1", components=("mlp_output",), amplifiers="3")
    first, second = desk.ask(one, "a, b"), desk.ask(one, "a, b")
    assert "Asking: 2 requests are served first" in answer(desk, second)
    desk.stop(first)
    assert first.state == "stopped" and answer(desk, first) == ""
    desk.stop(busy)
    held.set()
    assert over(desk, second).state == "done" and first.rows is None
    assert served(desk, usual).state == "done"


def test_a_question_stops_between_passes(desk, usual, monkeypatch):
    from helpers.engine.labels import LabelScorer

    log_odds, passes = LabelScorer.log_odds, []

    def stop_after_two(self, *given):
        passes.append(len(passes))
        if len(passes) == 2:
            desk.stop(question)
        return log_odds(self, *given)

    monkeypatch.setattr(LabelScorer, "log_odds", stop_after_two)
    monkeypatch.setattr("helpers.runs.labels.STEP", 10)
    question = desk.ask(usual.replace(layers="0-2"), "a, b")
    assert over(desk, question).state == "stopped" and len(passes) == 2


def test_an_answer_that_is_no_number_says_why_and_texts_are_no_markup(desk, usual):
    one = usual.replace(components=("hidden_state",), layers="1")
    failed = over(desk, desk.ask(one.replace(amplifiers="1e38"), "a, b"))
    failed.rows["probability"] = float("nan")
    assert "hidden state times 1e+38 is out of the dtype&#x27;s range" in answer(desk, failed)
    evil = over(desk, desk.ask(one.replace(amplifiers="1", prompt="<img src=x>"), "<script>alert(1)</script>, b"))
    page = answer(desk, evil)
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page


@pytest.mark.slow
def test_the_csv_opens_in_the_figures_notebook(desk, usual, tmp_path):
    from helpers.cli import main

    job = served(desk, usual.replace(components=("mlp_output", "hidden_state")))
    save_results(job.rows, tmp_path / "app.csv")
    settings = [f"results={tmp_path / 'app.csv'}", f"out_dir={tmp_path / 'out'}"]
    assert main(["reproduce", "--only", "layer_success_plots", *settings]) == 0
    counts = pd.read_csv(tmp_path / "out" / "layer_success.csv")
    assert set(counts["component"]) == {"mlp_output", "hidden_state"} and (counts["prompts"] == 1).all()
    assert (tmp_path / "out" / "layer_success.png").is_file()
