"""runme.sh as typed: from any folder, in a path with spaces, its set-up repaired after an interruption."""

import json
import os
import re
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
from helpers.cli.commands import cli

OFFLINE = {"env": os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}}


def runme(*arguments, root=ROOT, cwd="/", **options):
    return subprocess.run([root / "runme.sh", *arguments], cwd=cwd, capture_output=True, text=True, **options)


def test_the_script_knows_the_commands():
    [known] = re.findall(r'^commands="(.*)"$', (ROOT / "runme.sh").read_text(), flags=re.M)
    assert known.split(", ") == [command.callback.__name__ for command in cli.registered_commands]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The repository's files in a path with a space, not set up."""
    root = tmp_path_factory.mktemp("somewhere else") / "super scopes"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("data/", "benchmarks/")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    return root


def test_an_unknown_command_is_refused_and_help_given_before_the_set_up(clone):
    done = runme("reprduce", root=clone)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("command='reprduce': unknown; known: reproduce, check, models")
    done = runme("help", root=clone)
    assert done.returncode == 0 and "./runme.sh COMMAND" in done.stdout and not done.stderr
    assert runme("--all", "--help", root=clone).stdout == runme("-h", root=clone).stdout == done.stdout
    assert not (clone / ".venv").exists()


def test_a_python_that_is_too_old_is_named(clone, tmp_path):
    none = tmp_path / "bin"
    none.mkdir()
    for tool in ("bash", "cat", "cksum", "dirname", "readlink", "mkdir", "flock", "rm", "env"):
        (none / tool).symlink_to(shutil.which(tool))
    done = runme("foo=1", root=clone, env={"PATH": str(none)})
    assert done.returncode == 2 and "needs Python 3.11 or newer" in done.stderr


@pytest.mark.slow
def test_set_up_repairs_itself_and_then_costs_nothing(clone):
    """In a .venv that finds this one's packages, offline."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    packages = next((clone / ".venv" / "lib").glob("python*/site-packages"))
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
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
    (clone.parent / "link").symlink_to(clone / "runme.sh")
    assert subprocess.run([clone.parent / "link", "foo=1"], capture_output=True, cwd="/").returncode == 2

    # Importable from anywhere, no path tricks; and installed as a command.
    where = [clone / ".venv/bin/python", "-c", "import helpers; print(helpers.__file__)"]
    done = subprocess.run(where, cwd="/", capture_output=True, text=True)
    assert Path(done.stdout.strip()).parent == clone / "helpers"
    done = subprocess.run([clone / ".venv/bin/superscopes", "--foo"], cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "No such option: --foo\n")

    (clone / "requirements.txt").open("a").write("# changed\n")
    assert "set-up: ready" in runme("foo=1", root=clone, **OFFLINE).stderr


is_set_up = pytest.mark.skipif(not (ROOT / ".venv/.ready").exists(), reason="./runme.sh has not set up .venv here")


@pytest.mark.slow
@is_set_up
def test_tests_take_pytests_arguments():
    done = runme("test", "--collect-only", "-q", "tests/cli/test_runme.py")
    assert done.returncode == 0 and "test_the_script_knows_the_commands" in done.stdout


@pytest.mark.slow
@is_set_up
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
