"""The application without a browser: its requests equal a sweep, never mix, and survive whatever goes wrong."""

import gc
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import weakref
from dataclasses import replace
from urllib.parse import quote

import numpy as np
import pandas as pd
import psutil
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from test_readme import blocks
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from helpers import ROOT, InputError
from helpers.app import view
from helpers.app.__main__ import main as app
from helpers.app.desk import Desk, Job, Reading
from helpers.app.panel import Panel
from helpers.app.server import POLICY, Server
from helpers.app.settings import MARKED, MOST_ROWS, Settings, same_tokens, unmark
from helpers.catalogue import DEFAULT_MODEL
from helpers.models import ModelCard
from helpers.plans import TargetPrompt, make_plan
from helpers.readings import Readings
from helpers.reproduce import main as reproduce
from helpers.results import save_results
from helpers.superscopes import sweep

PROMPT = "Diana, Princess of Wales"
pytestmark = pytest.mark.usefixtures("no_runs")


@pytest.fixture(scope="module")
def desk(tiny_folder, no_runs):
    desk = Desk(str(tiny_folder)).open()
    yield desk
    desk.close()


@pytest.fixture(scope="module")
def usual(tiny_folder):
    return Settings(PROMPT, str(tiny_folder), layers="0-2", amplifiers="1, 3, 9")


def served(desk: Desk, settings: Settings) -> Job:
    job = desk.submit(settings)
    deadline = time.monotonic() + 120
    while not job.is_over:
        assert time.monotonic() < deadline, view.status(desk, job)
        time.sleep(0.01)
    return job


# What was asked for


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tokens": (0, 3), "layers": "all", "target_layer": "0", "amplifiers": "1:2:0.5, 7", "max_new_tokens": 3},
        {"prompt": "a & b = “c” 100%?#+ñ\n<script>", "components": ("attention_output",), "threshold": -0.25},
        {"target_prompt": "Oslo: Capital of {Norway}, and more", "model": "some/where"},
    ],
)
def test_a_link_restores_every_setting(usual, changes):
    settings = replace(usual, **changes)
    query = dict(re.findall(r"([a-z_]+)=([^&]*)", settings.link()))
    query = {name: urllib.parse.unquote_plus(value) for name, value in query.items()}
    assert Settings.of_link(query) == settings


def test_a_link_that_was_not_made_here_is_said():
    assert Settings.of_link({"nonsense": "1", "prompt": "Titanic"}) == Settings("Titanic")
    with pytest.raises(InputError, match="tokens='1,x'"):
        Settings.of_link({"tokens": "1,x"})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"prompt": "  "}, "prompt='  ': type a prompt first"),
        ({"prompt": "x" * 10_000_000}, "10,000,000 characters; at most 20,000"),
        ({"prompt": "Wales " * 100}, "tokens, .* reads 64"),
        ({"prompt": "a\0b"}, "NUL"),
        ({"layers": "1-99"}, "layers=99: this model has layers 0–2"),
        ({"layers": ""}, "layers=''"),
        ({"amplifiers": "nan"}, "amplifiers='nan': expected numbers, or from:to:step"),
        ({"amplifiers": "1, inf"}, "amplifiers='inf'"),
        ({"amplifiers": ""}, "amplifiers=.*at least one"),
        ({"amplifiers": "1:1e9:0.001"}, "at most 10,000 numbers"),
        ({"amplifiers": "5:1:1"}, "a step that leads there"),
        ({"amplifiers": "1:5:0"}, "a step that leads there"),
        ({"components": ()}, "components=.*at least one"),
        ({"components": ("logits",)}, "components=.'logits'.: choose at least one of pre_mlp_residual"),
        ({"components": ("mlp_output", "random[mlp_output]")}, "components=.*choose at least one of"),
        ({"amplifiers": "1," * 5000}, "10,000 characters; at most 2,000"),
        ({"amplifiers": "1:9000:1, 1:9000:1"}, "more than 10,000"),
        ({"tokens": ()}, "tokens=.*at least one token"),
        ({"tokens": (77,)}, "token=77: is outside"),
        ({"target_layer": "-1"}, "target_layer='-1'"),
        ({"target_layer": "3"}, "target_layer=3: this model has layers 0–2"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 60}, "room for"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"target_prompt": "no mark"}, "mark its placeholder, one word, with braces"),
        ({"target_prompt": "{a} and {b}"}, "mark its placeholder, one word"),
        ({"target_prompt": "{Scaramucci} is"}, "mark one whole token; they are"),
        ({"amplifiers": "1:5000:1"}, f"readings=.*at most {MOST_ROWS:,} at once"),
    ],
)
def test_bad_input_is_one_sentence_that_names_the_setting(desk, usual, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        desk.submit(replace(usual, **changes))
    assert "\n" not in str(caught.value).replace("\\n", "") and len(str(caught.value)) < 800
    assert served(desk, usual).state == "done"  # nothing is broken afterwards


def test_braces_mark_the_placeholder(tiny):
    assert unmark(MARKED, tiny) == TargetPrompt()
    assert unmark("Oslo: Capital of {Norway}, and more", tiny).placeholder == 5
    assert unmark("Oslo: Capital of {Norway}, and more", tiny).text == "Oslo: Capital of Norway, and more"


# What comes of it


def test_the_csv_is_the_one_of_a_sweep(desk, usual, tiny, tmp_path):
    settings = replace(usual, tokens=(2, -1), components=("hidden_state", "mlp_output"), max_new_tokens=7)
    job = served(desk, settings)
    rows = sweep(
        tiny, PROMPT, ("mlp_output", "hidden_state"), "0-2", (1, 3, 9), token=[2, -1], target_layer="same",
        max_new_tokens=7,
    )  # fmt: skip
    save_results(job.rows, tmp_path / "app.csv")
    save_results(rows, tmp_path / "sweep.csv")
    assert (tmp_path / "app.csv").read_bytes() == (tmp_path / "sweep.csv").read_bytes()
    about = json.loads((tmp_path / "app.json").read_text())
    assert about["plan"] == json.loads((tmp_path / "sweep.json").read_text())["plan"] and about["whole"]


def test_the_python_lines_give_the_same_rows(desk, usual):
    settings = replace(
        usual, tokens=(0,), target_prompt="Oslo: Capital of {Norway}, and", target_layer="1", layers="0,2"
    )
    job = served(desk, settings)
    made = {}
    exec(settings.python(desk.card(settings.model), desk.dtype), made)
    pd.testing.assert_frame_equal(made["rows"], job.rows)


def test_what_a_run_has_read_is_not_read_again(tiny_folder, usual, tmp_path, request):
    """A notebook's run, stopped or not, leaves its rows for the page."""
    plan = make_plan(PROMPT, "hidden_state", layers="0-1", amplifiers=(1, 3, 9))
    rows = Readings(str(tiny_folder), out_dir=tmp_path).of("hidden_state.csv", [plan])
    desk = Desk(str(tiny_folder)).open()
    request.addfinalizer(desk.close)
    job = served(desk, replace(usual, components=("hidden_state",), layers="0-1"))
    assert (job.state, job.known, job.read) == ("done", 6, 0)
    pd.testing.assert_frame_equal(job.rows, rows, check_exact=True)


def test_a_longer_request_reads_only_what_is_new(desk, usual, tiny):
    first = served(desk, replace(usual, amplifiers="1.5, 4, 8", layers="all", tokens=(0, 1, 2)))
    assert (first.known, first.read, len(first.readings)) == (0, 81, 81)
    again = served(desk, first.settings)
    assert (again.known, again.read, len(again.readings)) == (81, 0, 81)
    longer = served(desk, Panel.rest_of(first))
    assert (longer.known, longer.read, len(longer.readings)) == (81, 162 - 48, 162)  # the first batch was all known
    components = ("pre_mlp_residual", "mlp_output", "hidden_state")
    whole = sweep(tiny, PROMPT, components, "all", (1.5, 4, 8), token=[*range(6)])
    pd.testing.assert_frame_equal(longer.rows, whole)


def test_stop_keeps_what_was_read_and_the_next_request_goes_on(desk, usual, tiny):
    settings = replace(usual, amplifiers="1:100:0.5")
    job = desk.submit(settings)
    while not job.readings and not job.is_over:
        time.sleep(0.005)
    job.stop.set()
    while not job.is_over:
        time.sleep(0.005)
    assert job.state == "stopped" and 0 < len(job.rows) == len(job.readings) < len(job.items)
    assert not job.rows.attrs["whole"] and job.rows["score"].notna().all()
    assert "Stopped after" in view.status(desk, job)
    rest = served(desk, settings)
    assert rest.state == "done" and rest.read < len(rest.items) == len(rest.rows)
    whole = sweep(tiny, rest.plan)
    pd.testing.assert_frame_equal(rest.rows, whole)


def test_requests_are_served_in_turn_and_do_not_mix(desk, usual, held):
    asked = [
        replace(usual, prompt=prompt, amplifiers=f"1:{20 + i}:1")
        for i, prompt in enumerate(("Titanic", PROMPT, "Kill Bill"))
    ]
    jobs = [desk.submit(one) for one in asked]
    places = [desk.place(job) for job in jobs]
    assert places == sorted(places) and places[-1] >= 1
    assert "served first" in view.status(desk, jobs[-1])
    held.set()
    while not jobs[-1].is_over:
        time.sleep(0.01)
    for job, one in zip(jobs, asked, strict=True):
        assert job.state == "done" and set(job.rows["source prompt"]) == {one.prompt}


def test_a_row_that_fails_is_a_row(desk, usual):
    job = served(desk, replace(usual, amplifiers="1, 1e30", target_layer="2", components=("hidden_state",)))
    assert job.state == "done"
    assert len(job.rows) == 6 and set(job.rows["status"]) <= {"ok", "nonfinite"}
    bad = replace_readings(
        job, lambda reading: reading._replace(status="nonfinite", message="<b>too</b> large", score=np.nan)
    )
    assert "&lt;b&gt;too&lt;/b&gt; large" in view.table(bad, 5) and "6 failed" in view.status(desk, bad)


def replace_readings(job: Job, change) -> Job:
    return replace(job, readings={id: change(reading) for id, reading in job.readings.items()})


def test_equal_requests_wait_in_turn_and_a_waiting_one_can_be_stopped(desk, usual, held):
    busy = desk.submit(replace(usual, amplifiers="1:20:0.5"))
    equal = [desk.submit(replace(usual, amplifiers="77")) for _ in range(3)]
    places = [desk.place(job) for job in equal]
    assert places == [places[0], places[0] + 1, places[0] + 2]
    desk.stop(equal[0])
    assert equal[0].state == "stopped" and desk.place(equal[1]) == places[0]
    assert "Stopped after 0 of 9 readings" in view.status(desk, equal[0])
    desk.stop(busy)
    held.set()
    while not equal[2].is_over:
        time.sleep(0.01)
    assert [job.state for job in equal] == ["stopped", "done", "done"] and equal[2].known == 9


def test_a_request_that_breaks_keeps_what_it_read(desk, usual, monkeypatch, capsys):
    def break_at_the_second_batch(self, job, rows, *more, own=Desk._take):
        if job.readings:
            raise RuntimeError("<i>the disk</i> is on fire")
        own(self, job, rows, *more)

    monkeypatch.setattr(Desk, "_take", break_at_the_second_batch)
    job = served(desk, replace(usual, amplifiers="1.125:160:1"))
    assert job.state == "failed" and "&lt;i&gt;the disk&lt;/i&gt; is on fire" in view.status(desk, job)
    assert 0 < len(job.rows) < len(job.items) and not job.rows.attrs["whole"]
    assert "RuntimeError" in capsys.readouterr().err


def test_two_models_read_the_same_pieces_of_a_prompt(tiny):
    assert same_tokens(PROMPT, (-1, 0), tiny, tiny) == (5, 0)
    with_bos = AutoTokenizer.from_pretrained(tiny.source.folder)
    bos = "<|endoftext|>"
    with_bos._tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])
    other = ModelCard(tiny.source, tiny.config, with_bos)
    assert len(other.token_ids(PROMPT)) == 7 and same_tokens(PROMPT, (-1, 0, 3), tiny, other) == (6, 1, 4)
    words = Tokenizer(WordLevel({"Diana": 0, ",": 1, "Princess": 2, "of": 3, "Wales": 4, "?": 5}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    other = ModelCard(tiny.source, tiny.config, PreTrainedTokenizerFast(tokenizer_object=words))
    assert same_tokens(PROMPT, (-1, 1), tiny, other) == (4, 0)
    with pytest.raises(InputError, match="cuts the prompt elsewhere: 'Diana'"):
        same_tokens(PROMPT, (0,), tiny, other)  # "D"


def test_a_full_queue_is_said(desk, usual, monkeypatch):
    monkeypatch.setattr("helpers.app.desk.MOST_WAITING", 0)
    with pytest.raises(InputError, match="queue='0 requests wait': try again"):
        desk.submit(usual)


def test_one_model_in_memory_and_one_that_fails_harms_nothing(tiny_folder, usual, tmp_path):
    desk = Desk(str(tiny_folder)).open()
    try:
        served(desk, usual)
        first = weakref.ref(desk._lm.model)
        assert served(desk, replace(usual, model=DEFAULT_MODEL, layers="1", amplifiers="1")).state == "done"
        gc.collect()
        assert desk.loaded == DEFAULT_MODEL and first() is None

        broken = tmp_path / "broken"
        broken.mkdir()
        for file in tiny_folder.iterdir():
            (broken / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
        bad = Desk(str(broken)).open()
        while not bad.is_ready:
            time.sleep(0.01)
        assert "its weights can&#x27;t be loaded" in view.status(bad, None)
        job = served(bad, replace(usual, model=str(broken)))
        assert job.state == "failed" and 'role="alert"' in view.status(bad, job)
        assert served(bad, replace(usual, model=DEFAULT_MODEL, layers="1", amplifiers="1")).state == "done"
        bad.close()
        with pytest.raises(InputError, match="model='elsewhere': expected one of"):
            desk.card("elsewhere")
    finally:
        desk.close()


def test_what_is_kept_is_bounded(desk, usual, monkeypatch):
    monkeypatch.setattr("helpers.app.desk.MOST_KEPT", 30)
    old = served(desk, replace(usual, amplifiers="1, 41"))
    for i in range(3):
        new = served(desk, replace(usual, amplifiers=f"1, 5{i}"))
    assert desk.find(old.id) is None and desk.find(new.id) is new and desk.find("nonsense") is None


# How it looks


@pytest.fixture(scope="module")
def job(desk, usual):
    return served(desk, usual)


def test_text_is_never_markup(desk, usual, job):
    evil = '<script>alert(1)</script><img src=x onerror="alert(2)">${7*7}{{value}}'
    asked = served(desk, replace(usual, prompt=evil[:40], tokens=(-1,)))
    bad = replace_readings(asked, lambda reading: reading._replace(result=evil))
    pages = [view.table(bad, asked.items["position"][0]), view.heat_map(bad), view.heading(bad), view.report(bad, evil)]
    pages += [view.ladder(bad, key) for key in view.ladders(bad)] + [view.error(evil)]
    for page in pages:
        assert "<script" not in page and "<img" not in page and 'onerror="' not in page
    assert "&lt;script&gt;" in pages[-1]


def test_best_and_chance_have_the_same_number_of_tries(job):
    chance = np.array([[0.1, 0.9], [0.8, 0.2]], dtype=np.float32)
    ladder = [(a, Reading(": a band", 1.0, "ok", "", score, row)) for a, score, row in zip((3, 6), (0.5, 0.7), chance)]
    best = view.Best(job, ladder)
    assert (best.amplifier, best.tries, best.mark) == (6, 2, "lucky")  # against others, two tries give 0.8 and 0.9
    assert best.chance == pytest.approx((0.8, 0.9))
    assert view.Best(job, [(3, ladder[0][1]._replace(chance=np.array([0.1, 0.2])))]).mark == "hit"
    assert view.Best(job, [(3, ladder[0][1]._replace(score=0.2))]).mark == ""
    failed = ladder[0][1]._replace(score=np.nan)
    assert view.Best(job, [(3, failed), (6, ladder[1][1])]).amplifier == 6


def test_words_of_the_prompt_are_marked(desk, job):
    said = replace_readings(job, lambda reading: reading._replace(result=": the Wales of England, Diana: princess"))
    cell = view.table(said, 5)
    marked = set(re.findall(r"<mark[^>]*>(\w+)</mark>", cell)) - {"word"}
    assert marked == {"Wales", "Diana", "princess"}  # not "the" and "of"


def test_an_echo_is_no_success(job):
    def mark(result):
        reading = Reading(result, 1.0, "ok", "", 0.9, np.zeros(47, np.float32))
        return view.Best(job, [(3.0, reading)]).mark

    assert mark(": Diana of Wales, x") == mark(", United Kingdom") == mark("") == "echo"
    assert mark(": British princess, x") == "hit"


def test_counts_stand_beside_chance(job):
    def reading(score, *chance):
        return Reading(": a band", 1.0, "ok", "", score, np.array(chance, np.float32))

    items = job.items[job.items["component"] == "mlp_output"].iloc[:6]  # layers 0 and 1, amplifiers 1, 3 and 9
    said = [reading(0.5, 0, 0.4), reading(0.1, 0, 0), reading(0.4, 0, 0)]
    said += [reading(0.1, 0.4, 0.4), reading(0.2, 0, 0.4), reading(0, 0.4, 0)]
    words = view.counts(
        job, view.ladders(replace(job, items=items, readings=dict(zip(items["id"], said, strict=True))))
    )
    assert "1 of 2 plain (by chance 1.5, 1 to 2)" in words and "1 of 2 amplified (by chance 1.0, 1 to 1)" in words
    assert "beside the paper's other 2 prompts" in words


@pytest.mark.parametrize("name", ["a|1", "a|1|2|3", "../x|1|2", "a|-1|2", "a|1|9999999", "", None, 5, {"a": 1}])
def test_a_cell_that_the_page_did_not_make_is_none(name):
    assert view.parse_cell(name) is None


def test_the_report_stands_alone(job, usual, desk):
    report = view.report(job, "x = '<b>'")
    assert not re.search(r"(src|href)=|url\(|@import|<script", report)
    assert "default-src 'none'" in report and PROMPT in report and "fingerprint" in report


# Who may ask for what


@pytest.fixture(scope="module")
def server(tiny_folder):
    server = Server(Desk(str(tiny_folder)))
    yield server
    server.close()


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, dict, bytes]:
    data = b"{}" if method == "POST" else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_it_listens_on_this_machine_alone(server):
    port = int(server.url.rstrip("/").rpartition(":")[2])
    addresses = {
        connection.laddr.ip for connection in psutil.Process().net_connections() if connection.laddr.port == port
    }
    assert addresses == {"127.0.0.1"}


def test_every_answer_carries_the_policy(server):
    for path in ("", "config", "gradio_api/info", "gradio_api/upload"):
        status, headers, _ = get(server.url + path)
        assert headers["content-security-policy"] == POLICY and headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example:7860", ""])
def test_another_host_name_is_refused(server, host):
    assert get(server.url, Host=host)[0] == 400


def test_a_page_of_another_origin_can_not_ask(server):
    join = server.url + "gradio_api/queue/join"
    assert get(join, "POST", Origin="http://evil.example")[0] == 403
    assert get(join, "POST", Origin="http://localhost:1")[0] == 403
    assert get(join, "POST", Origin=server.url.rstrip("/"))[0] != 403


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd", "gradio_api/file=../../etc/passwd", "gradio_api/file=%2Fetc%2Fpasswd",
        "gradio_api/file=https://example.com/", "gradio_api/file=HTTP://127.0.0.1:1/", "gradio_api/proxy=https://x.hf.space/",
        f"gradio_api/file={quote(str(ROOT))}/README.md", "file=/etc/passwd", "gradio_api//file=/etc/passwd",
        "gradio_api/file/etc/passwd", "gradio_api/file/https://example.com/", "gradio_api/deep_link", "static/../../../../etc/passwd", "gradio_api/upload", "monitoring",
    ],
)  # fmt: skip
def test_no_file_outside_the_exports_can_be_fetched(server, path):
    inside = f"gradio_api/file={server._folder}/exports/..%2f..%2f..%2f..%2f"
    for method, path in (("GET", path), ("POST", path), ("GET", inside + path.rpartition("=")[2].lstrip("/"))):
        status, _, body = get(server.url + path, method)
        assert status >= 400 and b"root:" not in body and b"Superscopes" not in body


def test_another_address_needs_a_password():
    with pytest.raises(InputError, match="address='0.0.0.0': others can reach it, so it needs a password"):
        Server(Desk(DEFAULT_MODEL), address="0.0.0.0")
    server = Server(Desk(DEFAULT_MODEL), address="0.0.0.0", password="correct horse")
    try:
        url = re.sub(r"//[^:]+", "//127.0.0.1", server.url)
        assert get(url + "config")[0] == 401 and get(url + "gradio_api/info")[0] == 401
        client = Client(url, auth=("superscopes", "correct horse"), verbose=False)
        assert DEFAULT_MODEL in client.predict(api_name="/models")
    finally:
        server.close()


def test_programs_get_the_rows_of_a_sweep(server, tiny, usual):
    client = Client(server.url, verbose=False)
    assert client.predict(api_name="/models")[0] == usual.model
    assert client.predict(PROMPT, api_name="/tokens") == [*tiny.decoded_tokens(PROMPT)]
    rows = client.predict(PROMPT, layers="0-2", amplifiers="1, 3", api_name="/interpret")
    wanted = sweep(tiny, PROMPT, ("pre_mlp_residual", "mlp_output", "hidden_state"), "0-2", (1, 3))
    assert rows == json.loads(wanted.to_json(orient="records"))
    with pytest.raises(AppError, match="of another kind than the API page says"):
        client.predict(5, api_name="/interpret")
    with pytest.raises(AppError, match="layers=9: this model has layers 0–2"):
        client.predict(PROMPT, layers="9", api_name="/interpret")
    assert {"/models", "/tokens", "/interpret"} == set(client.view_api(return_format="dict")["named_endpoints"])
    described = get(server.url + "gradio_api/info")[2].decode()
    assert "Read vectors of a prompt" in described


def test_the_readmes_client_prints_readings(server, capsys):
    example = next(block for block in blocks("python") if "gradio_client" in block)
    exec(example.replace("http://127.0.0.1:7860", server.url).replace("3-5", "1-2"), {})
    assert (
        len(re.findall(r"^[12] (?:pre_mlp_residual|mlp_output|hidden_state) [13]\.0 ", capsys.readouterr().out, re.M))
        == 12
    )


@pytest.mark.slow
def test_the_csv_opens_in_the_figures_notebook(desk, usual, tmp_path):
    job = served(desk, replace(usual, components=("mlp_output", "hidden_state")))
    save_results(job.rows, tmp_path / "app.csv")
    assert (
        reproduce(["--only", "layer_success_plots", f"results={tmp_path / 'app.csv'}", f"out_dir={tmp_path / 'out'}"])
        == 0
    )
    counts = pd.read_csv(tmp_path / "out" / "layer_success.csv")
    assert set(counts["component"]) == {"mlp_output", "hidden_state"} and (counts["prompts"] == 1).all()
    assert (tmp_path / "out" / "layer_success.png").is_file()


def test_a_click_is_not_lost_to_chips_that_are_gone(server):
    from gradio.state_holder import SessionState

    page = server._page
    session = SessionState(page.blocks)
    session[page.tokens._id] = page.tokens.__class__(
        choices=[("Kill", 0)], value=[0]
    )  # as Gradio renews it for a visitor
    assert session[page.tokens._id].preprocess([5, "x", None, 0]) == [5, 0]
    assert page.tokens.preprocess([5]) == [5] and page.tokens.preprocess(None) == []
    assert page.a.position.preprocess(5) == 5 and page.a.position.preprocess("x") is None
    assert page.tokens.get_block_name() == "checkboxgroup" and page.a.position.get_block_name() == "radio"
    assert not list((ROOT / "helpers").rglob("*.pyi"))


# From the terminal and the notebook


def started(*arguments: str, code: str = "") -> subprocess.Popen:
    command = ["-c", code] if code else ["-m", "helpers.app"]
    return subprocess.Popen(
        [sys.executable, *command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "smolm2"], "model='smolm2': expected smollm2-135m"),
        (["--dtype", "int3"], "dtype='int3': expected one of"),
        (["--address", "0.0.0.0"], "address='0.0.0.0': others can reach it"),
        (["--address", "::1"], "address='::1'"),
        (["--port", "99999"], "port=99999: expected 1 to 65535"),
    ],
)
def test_bad_arguments_end_with_a_sentence(arguments, message, capsys):
    assert app(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith(message) and said.err.count("\n") == 1 and said.out.startswith("starting")


def test_a_port_in_use_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = started("--port", str(port))
        _, error = said.communicate(timeout=60)
    assert said.returncode == 2 and f"port={port}: can't be used (address already in use)" in error


RECORDING = """
import socket, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        address = arguments[1] if event == "socket.connect" else arguments[0]
        host = address[0] if isinstance(address, tuple) else address
        if str(host) not in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "None"): print("ASKED", event, host, flush=True)
sys.addaudithook(watch)
from helpers.app.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_server_asks_no_other_host_and_ctrl_c_stops_it(tiny_folder):
    served = started("--model", str(tiny_folder), code=RECORDING)
    assert served.stdout.readline().startswith("starting")
    said = served.stdout.readline()
    assert said.startswith("Superscopes is at http://127.0.0.1:"), said + served.stderr.read()
    client = Client(re.search(r"http://\S+/", said)[0], verbose=False)
    assert client.predict(PROMPT, layers="1", amplifiers="1", api_name="/interpret")
    served.send_signal(2)
    try:
        out, _ = served.communicate(timeout=30)
    finally:
        served.kill()
    assert served.returncode == 130 and "ASKED" not in out


@pytest.mark.slow
def test_the_notebook_shows_the_page(tiny_folder, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "notebooks" / "superscopes_app.ipynb", as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += f"\nmodel = {str(tiny_folder)!r}"
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
    monkeypatch.setenv("JUPYTER_PATH", f"{sys.prefix}/share/jupyter")
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        shown = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
        url = re.search(r"http://127.0.0.1:\d+/", shown)[0]
        assert "<iframe" in shown and get(url)[0] == 200
        again = nbformat.v4.new_code_cell("app = show(model, dtype, port or None, height); app.url")
        notebook.cells.append(again)
        client.execute_cell(again, len(notebook.cells) - 1)
        assert get(re.search(r"http://127.0.0.1:\d+/", json.dumps(again.outputs))[0])[0] == 200
