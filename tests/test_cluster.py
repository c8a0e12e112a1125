"""The same plan on Dask: the same bytes, whoever reads, and whoever dies meanwhile."""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from faults import ROWS, Run, end
from test_readme import blocks

from helpers import ROOT, InputError
from helpers.plans import make_plan
from helpers.readings import Readings

pytest.importorskip("distributed", reason="Dask isn't installed: requirements-cluster.txt")
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of one process."""
    return Run(tmp_path_factory.mktemp("whole")).finish()


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers, each a process of its own: (address, scheduler, workers)."""
    address, processes = tmp_path / "scheduler.json", []

    def start(*command, cwd=ROOT):
        env = os.environ | {"PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "10"}
        command = [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]]
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        processes.append(subprocess.Popen(list(map(str, command)), cwd=cwd, env=env, **options))
        return processes[-1]

    def make(folders=(ROOT, ROOT)):
        host = ["--host", "127.0.0.1", "--scheduler-file", address]
        scheduler = start("scheduler", "--port", 0, "--no-dashboard", *host)
        while not address.exists():
            assert scheduler.poll() is None, scheduler.stderr.read()
            time.sleep(0.1)
        threads = ["--nworkers", 1, "--nthreads", 1, "--no-dashboard", "--memory-limit", 0]
        workers = [
            start("worker", "--scheduler-file", address, "--host", "127.0.0.1", *threads,
                  "--local-directory", tmp_path / f"worker-{n}", cwd=folder)
            for n, folder in enumerate(folders)
        ]  # fmt: skip
        import json

        return json.loads(address.read_text())["address"], scheduler, workers

    yield make
    for process in processes:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


@slow
def test_two_processes_of_this_machine_give_the_same_bytes(tmp_path, whole):
    assert Run(tmp_path).finish(workers=2) == whole


@slow
def test_a_run_goes_on_with_other_workers_and_another_batch_size(tmp_path, whole):
    """Begun by one process, killed; gone on with by two, stopped by Ctrl-C; ended by one with other batches."""
    run = Run(tmp_path)
    first = run.begin()
    end(first)
    kept = run.rows
    second = run.begin(2, kept + 32)
    os.killpg(second.pid, signal.SIGINT)  # as a terminal does: to all processes
    _, said = second.communicate(timeout=120)
    assert "Stopping after the batch in hand" in said and second.returncode != 0
    assert kept < run.rows < ROWS
    assert Run(tmp_path, batch_size=50).finish() == whole


@slow
def test_a_worker_that_is_killed_costs_nothing(tmp_path, whole, cluster):
    address, _, workers = cluster()
    run = Run(tmp_path / "run")
    driver = run.begin(address)
    for worker in workers:  # one after the other: what Dask calls a nanny starts each again
        [inner] = [
            one for one in psutil.Process(worker.pid).children(recursive=True) if "spawn" in " ".join(one.cmdline())
        ]
        inner.kill()
        before = run.rows
        run.wait_for(min(before + 64, ROWS), driver)
    _, said = driver.communicate(timeout=300)
    assert driver.returncode == 0, said[-3000:]
    assert (run.place / "results" / "sweep.csv").read_bytes() == whole


@slow
def test_a_scheduler_that_is_killed_loses_nothing(tmp_path, whole, cluster):
    address, scheduler, _ = cluster()
    run = Run(tmp_path / "run")
    driver = run.begin(address)
    scheduler.kill()
    _, said = driver.communicate(timeout=300)
    assert driver.returncode != 0 and "the Dask scheduler is gone" in said
    assert 64 <= run.rows < ROWS
    assert run.finish() == whole


@slow
def test_a_driver_that_is_killed_goes_on_with_the_same_cluster(tmp_path, whole, cluster):
    address, *_ = cluster()
    run = Run(tmp_path / "run")
    driver = run.begin(address)
    end(driver)
    kept = run.lines
    assert run.finish(address) == whole and run.lines.startswith(kept)


@slow
def test_workers_with_different_models_are_refused(tmp_path, tiny_folder, cluster):
    """The same name, another file on one machine."""
    for place in ("one", "other"):
        shutil.copytree(tiny_folder, tmp_path / place / "llama")
    weights = bytearray((tmp_path / "other" / "llama" / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (tmp_path / "other" / "llama" / "model.safetensors").write_bytes(weights)
    address, *_ = cluster([tmp_path / "one", tmp_path / "other"])
    with pytest.MonkeyPatch.context() as here:
        here.chdir(tmp_path / "one")
        time.sleep(5)
        with pytest.raises(InputError, match="a worker reads other rows than it was asked for: another model"):
            plan = make_plan(["Titanic", "Star Wars"], layers="all", amplifiers=range(1, 60), max_new_tokens=2)
            Readings("llama", out_dir=tmp_path, workers=address, batch_size=2).of("x.csv", [plan])


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        (-2, "workers=-2: expected 0 to "),
        (10**9, "workers=1000000000: expected 0 to "),
        (True, "workers=True: expected 0 to "),
        ("nowhere", "workers='nowhere': expected 0 to "),
        ("tcp://127.0.0.1:9", "workers='tcp://127.0.0.1:9': no Dask scheduler answers there"),
        ("nowhere://x", "workers='nowhere://x': no Dask scheduler answers there"),
    ],
)
def test_what_is_not_there_is_said_at_once(tiny_folder, tmp_path, workers, words, monkeypatch):
    import helpers.cluster

    monkeypatch.setattr(helpers.cluster, "PATIENCE", 1)
    with pytest.raises(InputError) as refused:
        Readings(str(tiny_folder), out_dir=tmp_path, workers=workers).of("x.csv", [make_plan("Titanic", layers=1)])
    assert str(refused.value).startswith(words)


def test_the_slurm_recipe_makes_a_job_of_one_worker_and_one_gpu():
    """The README's own words; no queue is needed to write the job's script."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue isn't installed: requirements-cluster.txt")
    recipe = next(block for block in blocks("python") if "SLURMCluster" in block).partition("cluster.scale")[0]
    made = {}
    exec(recipe, made)
    try:
        script = made["cluster"].job_script()
    finally:
        made["cluster"].close()
    assert "#SBATCH --gpus=1" in script and "#SBATCH --cpus-per-task=8" in script and "--no-nanny" in script
    assert script.count("dask_worker") == 1 or script.count("dask worker") == 1


def test_without_dask_it_says_how_to_get_it(tmp_path):
    script = """
import sys
sys.modules["distributed"] = None
from helpers.plans import make_plan
from helpers.readings import Readings
Readings("smollm2-135m", out_dir=sys.argv[1], workers=1).of("x.csv", [make_plan("Titanic")])
"""
    run = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert "workers=1: needs Dask: pip install -r requirements-cluster.txt" in run.stderr
