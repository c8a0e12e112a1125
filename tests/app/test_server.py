"""Who may ask the server for what, what programs get, and how it starts and stops."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import quote

import httpx
import pandas as pd
import psutil
import pytest
import uvicorn
from gradio_client import Client
from gradio_client.exceptions import AppError
from serving import PROMPT, over, usual_settings
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from helpers import ROOT, InputError, believe, label, sweep
from helpers.app import logins
from helpers.app.desk import Desk
from helpers.app.guard import POLICY, Guard
from helpers.app.server import Server, check_root_url, serve
from helpers.app.settings import PageSettings
from helpers.words.rows import ROW_COLUMNS, WEIGHED_COLUMNS
from helpers.words.settings import DEFAULT_MODEL

pytestmark = pytest.mark.usefixtures("no_runs")


@pytest.fixture(scope="module")
def server(tiny_folder, no_runs):
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


# Who may ask for what


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
        "gradio_api/file=https://example.com/", "gradio_api/file=HTTP://127.0.0.1:1/",
        "gradio_api/proxy=https://x.hf.space/", f"gradio_api/file={quote(str(ROOT))}/README.md",
        "file=/etc/passwd", "gradio_api//file=/etc/passwd", "gradio_api/file/etc/passwd",
        "gradio_api/file/https://example.com/", "gradio_api/deep_link", "static/../../../../etc/passwd",
        "gradio_api/upload", "monitoring",
    ],
)  # fmt: skip
def test_no_file_outside_the_exports_can_be_fetched(server, path):
    inside = f"gradio_api/file={server._folder}/exports/..%2f..%2f..%2f..%2f"
    for method, path in (("GET", path), ("POST", path), ("GET", inside + path.rpartition("=")[2].lstrip("/"))):
        status, _, body = get(server.url + path, method)
        assert status >= 400 and b"root:" not in body and b"Superscopes" not in body


@pytest.mark.parametrize("header", ["X-Forwarded-Host", "X-Gradio-Server", "X-Forwarded-Proto"])
def test_a_proxys_headers_are_not_believed(server, header):
    for path in ("", "config", "gradio_api/info"):
        status, _, body = get(server.url + path, **{header: "https://evil.example"})
        assert status == 200 and b"evil.example" not in body and b"https://127" not in body
        assert get(server.url + path, **{header: "\xe9\xff"})[0] == 200


def test_a_function_that_is_not_there(server):
    for fn_index in (99_999, -1):
        content = json.dumps({"data": [], "fn_index": fn_index, "session_hash": "x"}).encode()
        asked = urllib.request.Request(
            server.url + "gradio_api/queue/join", content, {"Content-Type": "application/json"}, method="POST"
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asked, timeout=20)
        assert refused.value.code == 400


def test_an_answer_does_not_repeat_all_that_was_given(server):
    with pytest.raises(AppError) as error:
        Client(server.url, verbose=False).predict(PROMPT, model="x" * 100_000, api_name="/tokens")
    assert len(str(error.value)) < 1000 and "expected one of" in str(error.value)


def test_the_folder_of_a_killed_server_is_removed(tmp_path, monkeypatch):
    from helpers.app import server

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    monkeypatch.setattr(server.tempfile, "gettempdir", lambda: str(tmp_path))
    for number in (process.pid, 1):
        (tmp_path / f"superscopes-{number}-x" / "exports").mkdir(parents=True)
    (tmp_path / "superscopes-notes").mkdir()
    server._remove_what_killed_servers_left()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["superscopes-1-x", "superscopes-notes"]


# With a password, and behind a proxy


def test_who_is_refused_is_not_remembered():
    """So that many addresses fill no memory."""
    known = logins.Logins()

    async def come(number: int) -> None:
        async with known.turn(f"address {number}"):
            await asyncio.sleep(0.01)

    async def all_at_once() -> list:
        return await asyncio.gather(*map(come, range(100)), return_exceptions=True)

    ended = asyncio.run(all_at_once())
    assert sum(isinstance(one, logins.TooMany) for one in ended) == 100 - logins.MOST_WAITING_OF_ALL
    assert not known._waiting and not known._turns


def test_an_upload_beside_files_that_disappear(tmp_path, monkeypatch):
    """Gradio removes old files while they are counted."""
    cache = tmp_path / "cache" / "upload"
    cache.mkdir(parents=True)
    for name in ("gone.npy", "here.npy"):
        (cache / name).write_bytes(b"\0" * 100)
    guard, stat = Guard(None, tmp_path), os.stat

    def stat_of(path, *more, **others):
        if str(path).endswith("gone.npy"):
            raise FileNotFoundError(path)
        return stat(path, *more, **others)

    monkeypatch.setattr(os, "stat", stat_of)
    assert guard._upload_refused({"content-length": "10"}) is None
    monkeypatch.setattr("helpers.app.guard.MOST_UPLOADED", 99)
    assert guard._upload_refused({"content-length": "10"}).status_code == 507


def log_in(url: str, password: str) -> int:
    content = urllib.parse.urlencode({"username": "superscopes", "password": password}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url + "login", content, method="POST"), timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_guessing_is_slow():
    """Many guesses at once: a few are tried, the others are refused; then the right password is taken."""
    server = Server(Desk(DEFAULT_MODEL), password="correct horse")
    try:
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda number: log_in(server.url, f"guess {number}"), range(120)))
        assert set(answers) == {400, 429} and answers.count(400) <= logins.FREE + 2 * logins.MOST_WAITING
        assert log_in(server.url, "correct horse") == 200
        assert get(server.url + "openapi.json")[0] == 403 and get(server.url + "gradio_api/openapi.json")[0] == 403
    finally:
        server.close()


def test_delays_grow_and_are_forgotten():
    now, slept = [0.0], []

    async def sleep(seconds):
        slept.append(seconds)

    known = logins.Logins(lambda: now[0], sleep)

    async def fail(address):
        async with known.turn(address):
            known.note(address, failed=True)

    for _ in range(6):
        asyncio.run(fail("a"))
    assert slept == [0, 0, 0, 0.5, 1, 2] and known.delay("b") == 0
    for number in range(40):
        asyncio.run(fail(f"other {number}"))
    assert 0 < known.delay("b") <= logins.LONGEST_OF_ALL
    known.note("a", failed=False)
    assert known.delay("a") == known.delay("b")
    now[0] = logins.FORGOTTEN + 1
    assert known.delay("a") == known.delay("b") == 0


@pytest.fixture
def proxy():
    """A real reverse proxy on this machine, which serves another server under /lab: (its address, where to send)."""
    target = []

    async def pass_on(request):
        if not request.url.path.startswith("/lab/"):
            return Response("not here", 404)
        url = target[0].rstrip("/") + request.url.path.removeprefix("/lab") + f"?{request.url.query}"
        async with httpx.AsyncClient(timeout=60) as client:
            headers = [(name, value) for name, value in request.headers.raw if name != b"host"]
            answer = await client.send(
                client.build_request(request.method, url, headers=headers, content=await request.body()), stream=True
            )
            body = [part async for part in answer.aiter_raw()]
        kept = {name: value for name, value in answer.headers.items() if name != "transfer-encoding"}
        return Response(b"".join(body), answer.status_code, kept)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    methods = ["GET", "POST", "HEAD"]
    app = Starlette(routes=[Route("/{path:path}", pass_on, methods=methods)])
    running = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port}", target
    running.should_exit = True
    thread.join(10)


def test_behind_a_proxy_with_a_path(tiny_folder, proxy):
    address, target = proxy
    server = Server(Desk(str(tiny_folder)), root_url=f"{address}/lab")
    target.append(f"http://127.0.0.1:{server.port}/")
    try:
        status, _, page = get(f"{address}/lab/")
        assert status == 200 and f"{address}/lab".encode() in page
        client = Client(f"{address}/lab/", verbose=False)
        assert client.predict(api_name="/models")[0] == str(tiny_folder)
        assert client.predict(PROMPT, layers="1", amplifiers="1", api_name="/interpret")
        join = f"{address}/lab/gradio_api/queue/join"
        assert get(join, "POST", Origin="http://evil.example")[0] == 403
        assert get(join, "POST", Origin=address)[0] not in (403, 404)
    finally:
        server.close()


@pytest.mark.parametrize("url", ["lab", "/lab", "ftp://x/y", "https:///x", "http://[::1", "https://x/?y=1"])
def test_a_root_url_that_is_none(url):
    with pytest.raises(InputError, match="root_url=.*: expected a whole URL"):
        check_root_url(url)


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


# What programs get


def test_programs_get_the_rows_of_a_sweep(server, tiny):
    client = Client(server.url, verbose=False)
    assert client.predict(api_name="/models")[0] == server.desk.model
    assert client.predict(PROMPT, api_name="/tokens") == [*tiny.decoded_tokens(PROMPT)]
    rows = client.predict(PROMPT, layers="0-2", amplifiers="1:3:2", api_name="/interpret")
    wanted = sweep(tiny, PROMPT, ("pre_mlp_residual", "mlp_output", "hidden_state"), "0-2", "1:3:2")
    assert [list(row) for row in rows] == [[*ROW_COLUMNS, *WEIGHED_COLUMNS]] * len(rows)
    as_read = [{name: row[name] for name in ROW_COLUMNS} for row in rows]
    assert as_read == json.loads(wanted[list(ROW_COLUMNS)].to_json(orient="records"))
    best = believe(tiny, wanted)
    assert [row["id"] for row in rows if "blind" in row["chosen"]] == best["id"].tolist()
    assert {row["confidence"] for row in rows} == {None} and {row["verdict"] for row in rows} == {"uncalibrated", ""}
    with pytest.raises(AppError, match="prompt=5: expected text"):
        client.predict(5, api_name="/interpret")
    with pytest.raises(AppError, match="layers=9: this model has layers 0–2"):
        client.predict(PROMPT, layers="9", api_name="/interpret")
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert {"/models", "/tokens", "/interpret", "/label", "/read"} == set(endpoints)
    described = get(server.url + "gradio_api/info")[2].decode()
    assert "Read vectors of a prompt" in described


def test_programs_get_the_labels_of_a_vector(server, tiny):
    client = Client(server.url, verbose=False)
    rows = client.predict(PROMPT, "person, country, a band", layers="1-2", amplifiers="1:3:2", api_name="/label")
    wanted = label(tiny, PROMPT, "person, country, a band", layers="1-2", amplifiers="1:3:2")
    pd.testing.assert_frame_equal(pd.DataFrame(rows), wanted, check_dtype=False, atol=1e-4, rtol=0)
    with pytest.raises(AppError, match="expected 2 to 50 labels"):
        client.predict(PROMPT, "person", layers="1", api_name="/label")
    with pytest.raises(AppError, match="vectors='52,800': at most 20,000 at once here, those of chance"):
        client.predict(PROMPT, "a, b", layers="1", amplifiers="1:1100:1", api_name="/label")
    with pytest.raises(AppError, match="labels='a, a, a, a, a, a, a,…': 15,000 characters; at most 12,000"):
        client.predict(PROMPT, "a, " * 5000, layers="1", api_name="/label")


def test_the_readmes_client_prints_readings(server, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    example = next(block for block in blocks if "gradio_client" in block)
    exec(example.replace("http://127.0.0.1:7860", server.url).replace("3-5", "1-2"), {})
    lines = re.findall(
        r"^[12] (?:pre_mlp_residual|mlp_output|hidden_state) [13]\.0 ", capsys.readouterr().out, flags=re.M
    )
    assert len(lines) == 12


def test_a_click_is_not_lost_to_chips_that_have_changed(server):
    from gradio.state_holder import SessionState

    page = server._page
    tokens, session = page.inputs.fields["tokens"], SessionState(page.blocks)
    session[tokens._id] = tokens.__class__(choices=[("Kill", 0)], value=[0])  # as Gradio renews it for a visitor
    assert session[tokens._id].preprocess([5, "x", None, 0]) == [5, 0]
    assert tokens.preprocess([5]) == [5] and tokens.preprocess(None) == []
    assert page.panel.position.preprocess(5) == 5 and page.panel.position.preprocess("x") is None
    assert tokens.get_block_name() == "checkboxgroup" and page.panel.position.get_block_name() == "radio"
    assert not list((ROOT / "helpers").rglob("*.pyi"))


def test_a_wrong_setting_stops_nothing(server, held):
    """What is being read goes on, and its page still follows it."""
    page, desk = server._page, server.desk
    running = desk.submit(usual_settings(desk.model))
    fields = dict(PageSettings.of({"prompt": "Titanic", "model": desk.model, "layers": "9"}))
    beside = [page.inputs.compare.value, *(field.value for field in page.inputs.compared.values())]
    request = SimpleNamespace(client=None, session_hash="x")

    async def told(layers: str) -> list[dict]:
        values = [*(fields | {"layers": layers}).values(), (desk.model, "", []), ""]
        shown = [running.id, "", [("running", running.id)]]
        return [changes async for changes in page.ask(request, *values, *beside, *shown)]

    for layers, message in (("9", "layers=9: this model has"), ("x", "layers=&#x27;x&#x27;")):
        [changes] = asyncio.run(told(layers))
        assert message in changes[page.inputs.problem] and not running.stop.is_set()
    held.set()
    assert over(desk, running).state == "done"


def test_chips_of_another_prompt_are_not_read(server):
    inputs = server._page.inputs
    values = ["Kill Bill", server.desk.model, [3, 5], ["mlp_output"], " 1 ", "same", "1", "", 5, 0.3]
    assert inputs.read([*values, json.dumps([server.desk.model, PROMPT, []]), ""]).tokens == (-1,)
    settings = inputs.read([*values, json.dumps([server.desk.model, "Kill Bill", []]), ""])
    assert (settings.tokens, settings.layers) == ((3, 5), "1")
    filled = inputs.fill(settings)
    assert [filled[inputs.fields[name]] for name in ("prompt", "max_new_tokens")] == ["Kill Bill", 5]
    for odd in ("", "5", "[1]", "nothing", None):
        assert inputs.read([*values, odd, ""]).tokens == (-1,)
    with pytest.raises(InputError, match=r"tokens=\[\]: choose at least one token"):
        inputs.read([*values[:2], None, *values[3:], json.dumps([server.desk.model, "Kill Bill", []]), ""])


# Start and stop


@pytest.mark.parametrize(
    "given, message",
    [
        ({"model": "smolm2"}, "model='smolm2': expected smollm2-135m"),
        ({"dtype": "int3"}, "dtype='int3': expected one of"),
        ({"device": "abacus"}, "device='abacus': not on this machine"),
        ({"address": "0.0.0.0"}, "address='0.0.0.0': others can reach it"),
        ({"address": "::1"}, "address='::1'"),
        ({"port": 99999}, "port=99999: expected 1 to 65535"),
    ],
)
def test_bad_arguments_end_with_a_sentence(given, message, capsys):
    usual = {"model": DEFAULT_MODEL, "dtype": "float32", "device": "auto", "port": None, "address": "127.0.0.1"}
    assert serve(**usual | given) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(message) and printed.err.count("\n") == 1 and printed.out.startswith("starting")


def test_a_port_in_use_is_named(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert serve(DEFAULT_MODEL, "float32", "auto", port, "127.0.0.1") == 2
    assert f"port={port}: can't be used (address already in use)" in capsys.readouterr().err


RECORDING = """
import socket, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        address = arguments[1] if event == "socket.connect" else arguments[0]
        host = address[0] if isinstance(address, tuple) else address
        if str(host) not in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "None"): print("ASKED", event, host, flush=True)
sys.addaudithook(watch)
from helpers.cli import main
sys.exit(main(["app", *sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("signal, code", [(2, 130), (15, 143)])
def test_the_server_asks_no_other_host_and_stops_when_told_to(tiny_folder, signal, code):
    process = subprocess.Popen(
        [sys.executable, "-c", RECORDING, "--model", str(tiny_folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline().startswith("starting")
        line = process.stdout.readline()
        assert line.startswith("Superscopes is at http://127.0.0.1:"), line + process.stderr.read()
        client = Client(re.search(r"http://\S+/", line)[0], verbose=False)
        assert client.predict(PROMPT, layers="1", amplifiers="1", api_name="/interpret")
        process.send_signal(signal)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code and "ASKED" not in out


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
        outputs = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
        url = re.search(r"http://127.0.0.1:\d+/", outputs)[0]
        assert "<iframe" in outputs and get(url)[0] == 200
        again = nbformat.v4.new_code_cell("app = show(model, dtype, port or None, height); app.url")
        notebook.cells.append(again)
        client.execute_cell(again, len(notebook.cells) - 1)
        assert get(re.search(r"http://127.0.0.1:\d+/", json.dumps(again.outputs))[0])[0] == 200
