"""The page's second tab: given vectors through the desk, as the command line reads them; and what is refused."""

import asyncio
import http.client
import io
import re
import threading
import zipfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from browser import CHROMIUM, browser
from gradio_client import Client
from gradio_client.exceptions import AppError
from safetensors.torch import save_file
from serving import over

from helpers import InputError, believed, read
from helpers.app import given_view
from helpers.app.desk import SHARE, Desk
from helpers.app.server import Server
from helpers.app.vector_settings import MOST_BYTES, AskedVectors

pytestmark = pytest.mark.usefixtures("no_runs")
KING = '"King" - "Man" + "Woman"'
FEW = {"max_new_tokens": 4, "random": 3, "amplifiers": "1, 2, 3"}
TABLE = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def server(tiny_folder, no_runs):
    server = Server(Desk(str(tiny_folder)))
    yield server
    server.close()


@pytest.fixture
def desk(server):
    return server.desk


@pytest.fixture
def file(tmp_path):
    save_file({f"probe {row}": vector.clone() for row, vector in enumerate(TABLE)}, tmp_path / "probes.safetensors")
    return tmp_path / "probes.safetensors"


def asked(desk, **given) -> AskedVectors:
    return AskedVectors.of_visitor({"model": desk.model} | FEW | given)


def test_the_table_is_that_of_the_command_line(desk, tiny, file):
    for given, vectors in (({"vectors": f"{KING}; mlp.down[1, 3:5]", "layers": "0-1"}, None), ({"upload": str(file), "rows": "1-2"}, str(file))):
        job = over(desk, desk.submit(asked(desk, **given)))
        assert job.state == "done", job.message
        more = {name: value for name, value in given.items() if name in ("layers", "rows")}
        rows = read(tiny, vectors or given["vectors"], **more, **FEW)
        pd.testing.assert_frame_equal(job.rows, rows)
        pd.testing.assert_frame_equal(job.table, believed(rows), rtol=0, atol=2e-4)
    assert str(file.parent) not in str(job.rows.attrs)
    shown = given_view.table(job)
    assert all(f"probes:probe {row}" in shown for row in (1, 2)) and " of 3<small>chance " in shown
    speed = desk.speeds[desk.model]
    again = over(desk, desk.submit(asked(desk, upload=str(file), rows="2")))
    assert again.known == 3 + 3 * 3 + 1 and not again.read and again.table["reading"].tolist() == job.table["reading"].tolist()[1:]
    assert desk.speeds[desk.model] == speed > 0, "what was in memory already says nothing of it"


def hostile(folder) -> dict[str, tuple[bytes, str]]:
    """Files, each with the sentence that refuses it."""

    def npy(array) -> bytes:
        kept = io.BytesIO()
        np.save(kept, array, allow_pickle=True)
        return kept.getvalue()

    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.npy", npy(np.zeros((600_000, 32), np.float32)))
    huge = npy(np.zeros((2, 32), np.float32)).replace(b"(2, 32), }", b"(99999999999, 32), }").replace(b" " * 10 + b"\n", b"\n")
    lying = io.BytesIO()
    with zipfile.ZipFile(lying, "w") as packed:
        packed.writestr("a.npy", huge)
    return {
        "wide.npy": (npy(np.ones((3, 31), np.float32)), "vectors of 31 numbers; .* has a width of 32"),
        "nan.npy": (npy(np.full((1, 32), np.nan, np.float32)), "numbers that are not finite"),
        "zero.npy": (npy(np.zeros((1, 32), np.float32)), "zeros alone"),
        "bomb.npz": (bomb.getvalue(), "unpacks to 76,800,128 bytes; at most 64,000,000"),
        "lying.npz": (lying.getvalue(), "can't be read as .npz"),
        "huge.npy": (huge, "can't be read as .npy"),
        "objects.npy": (npy(np.array([{"a": 1}])), "can't be read as .npy"),
        "text.npz": (b"PK\3\4 not a zip", "can't be read as .npz"),
        "text.safetensors": (b"\xff" * 100, "can't be read as .safetensors"),
        "deep.csv": (b'v\n"' + b"[" * 100_000 + b'"\n', "no column holds lists of numbers"),
        "binary.csv": (b"\0\xff\xfe" * 50, "can't be read as .csv"),
        "weights.pt": (b"\x80\x04N.", "expected .safetensors, .npy, .npz, .csv"),
        "long.npy": (b"\0" * (MOST_BYTES + 1), "8,000,001 bytes; at most 8,000,000 here"),
        "many.npy": (npy(np.ones((2500, 32), np.float32)), "vectors='2,500': at most 1,000 here"),
    }


def test_hostile_files_are_refused_in_a_sentence(desk, tmp_path):
    for name, (content, message) in hostile(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            desk.submit(asked(desk, upload=str(tmp_path / name)))
        said = str(caught.value)
        assert "\n" not in said and str(tmp_path) not in said and len(said) < 500, said
    with pytest.raises(InputError, match="gone.npy': is no longer here"):
        desk.submit(asked(desk, upload=str(tmp_path / "gone.npy")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vectors": 'mean(prompts("data/prompts.csv"))'}, "no files are read here"),
        ({"vectors": "data/prompts.csv"}, "vectors='data': expected prompts in quotes"),
        ({"vectors": "__import__('os')"}, "expected prompts in quotes"),
        ({"vectors": "mlp.down[0, 0:100000]", "way": "plain", "random": 100}, "at most 1,000 here"),
        ({"vectors": KING, "random": 10**9}, "random=1000000000: expected a whole number, from 0 to 100"),
        ({"vectors": KING, "amplifiers": "1:9000:1", "layers": "0-2"}, "readings; at most 20,000 here"),
        ({"vectors": KING, "layers": "9"}, "layers=9"),
        ({"vectors": KING, "rows": "1-2"}, "only files take it"),
        ({"vectors": KING, "source_options": {"trust_remote_code": True}, "out_dir": "/"}, ""),
    ],
)
def test_what_a_visitor_may_not_ask(desk, given, message):
    if not message:  # passed over: nothing but what the page has
        settings = asked(desk, **given)
        assert settings.out_dir == "" and not settings.source_options.changed
        return
    with pytest.raises(InputError, match=message):
        desk.submit(asked(desk, **given))


def test_it_waits_stops_and_has_a_share_like_a_prompt(desk, monkeypatch):
    held, note = threading.Event(), Desk._note_speed
    monkeypatch.setattr(Desk, "_note_speed", lambda *given: (held.wait(60), note(*given)))  # after the first batch
    jobs = [desk.submit(asked(desk, vectors=f'"stop {number}"', layers="0-2", random=50), "me") for number in range(SHARE)]
    with pytest.raises(InputError, match="requests of yours wait"):
        desk.submit(asked(desk, vectors=KING, layers="0"), "me")
    for job in jobs[1:]:
        desk.stop(job)
        assert job.state == "stopped"
    desk.stop(jobs[0])
    held.set()
    first = over(desk, jobs[0])
    assert first.state == "stopped" and len(first.readings) < len(first.items)
    assert "Stopped after" in given_view.status(desk, first)


def test_a_wrong_setting_stops_nothing(server, held):
    tab, desk = server._page.vectors, server.desk
    running = desk.submit(asked(desk, vectors='"running"', layers="0-2"))
    values = {name: field.value for name, field in tab.fields.items()} | {"layers": "9", "upload": None}
    request = SimpleNamespace(client=None, session_hash="x")

    async def told() -> list[dict]:
        return [changes async for changes in tab.ask(request, *values.values(), running.id)]

    [changes] = asyncio.run(told())
    assert "layers=9: this model has layers 0–2" in changes[tab.problem] and not running.stop.is_set()
    held.set()
    assert over(desk, running).state == "done"


def test_programs_read_expressions_and_numbers(server, tiny, tmp_path):
    client = Client(server.url, verbose=False)
    rows = client.predict(KING, layers="0-1", random=3, amplifiers="1, 2, 3", max_new_tokens=4, api_name="/read")
    wanted = believed(read(tiny, KING, layers="0-1", **FEW))
    assert [row["reading"] for row in rows] == wanted["reading"].tolist()
    assert [row["contrast"] for row in rows] == pytest.approx(wanted["contrast"].tolist(), nan_ok=True)
    rows = client.predict(numbers=TABLE.tolist(), random=3, amplifiers="1, 2, 3", max_new_tokens=4, api_name="/read")
    np.save(tmp_path / "numbers.npy", TABLE.numpy())
    wanted = believed(read(tiny, str(tmp_path / "numbers.npy"), **FEW))
    assert [(row["source prompt"], row["reading"]) for row in rows] == list(zip(wanted["source prompt"], wanted["reading"], strict=True))
    for given, message in (({"numbers": [[1, 2], [3]]}, "another kind"), ({"numbers": [[1.0, 2.0]]}, "width of 32"), ({}, "vectors=")):
        with pytest.raises(AppError, match=message):
            client.predict(**given, api_name="/read")


def test_an_upload_has_a_limit(server, monkeypatch):
    host = server.url.split("//")[1].strip("/")

    def upload(content: bytes, length: int | None = None) -> int:
        form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.npy"\r\n\r\n' + content + b"\r\n--x--\r\n"
        asked = http.client.HTTPConnection(host, timeout=60)
        asked.putrequest("POST", "/gradio_api/upload")
        asked.putheader("Content-Type", "multipart/form-data; boundary=x")
        if length != 0:
            asked.putheader("Content-Length", str(length or len(form)))
        asked.endheaders(form if length is None else None)
        return asked.getresponse().status

    assert upload(b"a" * 1000) == 200
    assert upload(b"", MOST_BYTES + 20_000) == 413 and upload(b"", 0) == 411
    monkeypatch.setattr("helpers.app.guard.MOST_UPLOADED", 500)
    assert upload(b"a" * 1000) == 507


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine; apt-get install chromium")
def test_a_visitor_reads_an_expression_and_a_file(server, tiny, file, tmp_path):
    wanted = believed(read(tiny, KING, layers="0-1", random=20, amplifiers="1, 2, 3"))
    with browser() as chromium:
        page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(120_000)
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector("#tokens label")
        page.get_by_role("tab", name="A vector").click()
        for name, text in (("layers", "0-1"), ("amplifiers", "1, 2, 3")):
            page.locator(f"#vector-{name}").locator("textarea, input").fill(text)
        page.click("#read")
        page.wait_for_selector("#table-vectors table")
        texts = page.locator("#table-vectors td.whole").all_inner_texts()
        assert [" ".join(text.split()) for text in texts] == [" ".join(text.split()) or "blank" for text in wanted["reading"].where(wanted["status"] == "ok", "blank")]
        page.wait_for_selector("#believed-vectors:not([disabled])")
        with page.expect_download() as download:
            page.click("#believed-vectors")
        download.value.save_as(tmp_path / "believed.csv")
        assert len(pd.read_csv(tmp_path / "believed.csv")) == 2

        page.locator("#upload input[type=file]").set_input_files(file)
        page.wait_for_function("document.querySelector('#upload').innerText.includes('probes')")
        page.click("#read")
        page.wait_for_function("document.querySelectorAll('#table-vectors tbody tr').length == 4")
        assert re.search(r"probes:probe 3", page.inner_text("#table-vectors"))
        (tmp_path / "wide.npy").write_bytes(hostile(tmp_path)["wide.npy"][0])
        page.locator("#upload button[aria-label*=lear], #upload button[aria-label*=emove]").first.click()
        page.locator("#upload input[type=file]").set_input_files(tmp_path / "wide.npy")
        page.wait_for_function("document.querySelector('#upload').innerText.includes('wide')")
        page.click("#read")
        page.wait_for_selector("#vector-problem [role=alert]")
        assert "wide.npy': vectors of 31 numbers" in page.inner_text("#vector-problem")
        assert not problems
