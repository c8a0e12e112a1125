"""The one door, as typed: from any directory, in a path with spaces, repaired after an interruption."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path

import pytest

from helpers import ROOT


def runme(*arguments, root=ROOT, cwd="/", **options):
    return subprocess.run([root / "runme.sh", *arguments], cwd=cwd, capture_output=True, text=True, **options)


def test_help_lists_what_exists():
    done = runme("help")
    assert done.returncode == 0
    for verb in ("reproduce", "check", "models", "app", "status", "clean", "test", "lab", "help"):
        assert f"./runme.sh {verb}" in done.stdout
    assert runme("--help").stdout == runme("reproduce", "--help").stdout == done.stdout
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert notebook.stem in done.stdout or notebook.stem in ("can_it_speak", "superscopes_app")  # check, app


def test_an_unknown_command_lists_the_known():
    done = runme("reprduce")
    assert (done.returncode, done.stdout) == (
        2,
        "",
    ) and "known: reproduce, check, models, app, status, clean, test, lab, help" in done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The repository's files in a path with a space, and a .venv that finds this one's packages, offline."""
    root = tmp_path_factory.mktemp("somewhere else") / "super scopes"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("data/smollm2"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    packages = next((root / ".venv" / "lib").glob("python*/site-packages"))
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return root


OFFLINE = {"env": os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}}


@pytest.mark.slow
def test_set_up_repairs_itself_and_then_costs_nothing(clone):
    first = subprocess.Popen(
        [clone / "runme.sh", "foo=1"], stderr=subprocess.PIPE, text=True, start_new_session=True, **OFFLINE
    )
    while "installing the libraries" not in (line := first.stderr.readline()):
        assert line
    os.killpg(first.pid, signal.SIGKILL)  # in the middle of it
    first.wait()
    assert not (clone / ".venv/.ready").exists()

    second = runme("foo=1", root=clone, **OFFLINE)
    said = [line.split(": ", 1)[1] for line in second.stderr.splitlines() if line.startswith("set-up: ")]
    assert said[0] == "keeping the installed torch" and said[-1] == "ready", second.stderr
    assert second.returncode == 2 and "setting='foo': unknown" in second.stderr

    third = runme("foo=1", root=clone, **OFFLINE)
    assert third.returncode == 2 and "set-up" not in third.stderr

    link = clone.parent / "link"
    link.symlink_to(clone / "runme.sh")
    assert subprocess.run([link, "foo=1"], capture_output=True, cwd="/").returncode == 2

    python = clone / ".venv/bin/python"
    where = subprocess.run(
        [python, "-c", "import helpers; print(helpers.__file__)"], cwd="/", capture_output=True, text=True
    )
    assert Path(where.stdout.strip()).parent == clone / "helpers"  # importable from anywhere, no path tricks

    (clone / "requirements.txt").open("a").write("# changed\n")
    assert "set-up: ready" in runme("foo=1", root=clone, **OFFLINE).stderr


def test_a_python_that_is_too_old_is_said(clone, tmp_path):
    other = shutil.copytree(clone, tmp_path / "other", ignore=shutil.ignore_patterns(".venv"))
    none = tmp_path / "bin"
    none.mkdir()
    for tool in ("bash", "cat", "cksum", "dirname", "readlink", "mkdir", "flock", "rm", "env"):
        (none / tool).symlink_to(shutil.which(tool))
    done = runme("foo=1", root=other, env={"PATH": str(none)})
    assert done.returncode == 2 and "needs Python 3.11 or newer" in done.stderr


set_up = pytest.mark.skipif(not (ROOT / ".venv/.ready").exists(), reason="./runme.sh has not set up .venv here")


@set_up
def test_models_lists_the_catalogue_and_check_takes_a_model():
    done = runme("models")
    assert done.returncode == 0 and "smollm2-135m" in done.stdout and "qwen2.5-coder-1.5b" in done.stdout
    done = runme("models", "llama")
    assert done.returncode == 2 and done.stderr.startswith("model='llama': not in the catalogue")
    done = runme("check", "smolm2")
    assert done.returncode == 2 and done.stderr.startswith("model='smolm2': expected smollm2-135m")


@set_up
def test_tests_pass_their_arguments_on():
    done = runme("test", "--collect-only", "-q", "tests/test_runme.py")
    assert done.returncode == 0 and "test_help_lists_what_exists" in done.stdout


@set_up
def test_lab_opens_the_notebooks_and_asks_no_other_host():
    port = "18765"
    command = [ROOT / "runme.sh", "lab", "--no-browser", f"--ServerApp.port={port}", "--IdentityProvider.token=t"]
    lab = subprocess.Popen(command, cwd="/", stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        page = None
        for _ in range(60):
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/lab/tree/notebooks?token=t", timeout=5).read()
                break
            except OSError:
                assert lab.poll() is None, lab.stderr.read()
                time.sleep(0.5)
        assert page
        asking = "lab/api/settings/@jupyterlab%2Fapputils-extension:notification"
        settings = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/{asking}?token=t", timeout=5))
        properties = settings["schema"]["properties"]
        assert (properties["fetchNews"]["default"], properties["checkForUpdates"]["default"]) == ("false", False)
        listing = f"http://127.0.0.1:{port}/api/contents/notebooks?token=t"
        assert b"layer_success_plots.ipynb" in urllib.request.urlopen(listing, timeout=5).read()
    finally:
        os.killpg(lab.pid, signal.SIGKILL)
        lab.wait()
