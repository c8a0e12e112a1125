"""The same plan on Dask: the same rows, whoever reads, and whoever dies meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from faults import Run, end, uninterrupted
from tables import QuickJudge, assert_same_but_for_rounding, make_readings

from helpers import ROOT, InputError
from helpers.runs import ledger
from helpers.runs.session import Session
from helpers.words.plans import make_plan
from helpers.words.settings import ModelSettings

pytest.importorskip("distributed", reason="Dask isn't installed: requirements-cluster.txt")
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tiny_folder):
    """The bytes of one process."""
    return uninterrupted(tiny_folder)[0]


@pytest.fixture
def cluster(tmp_path):
    """Start a scheduler and two workers, each a process: (address, scheduler, workers)."""
    address, processes = tmp_path / "scheduler.json", []

    def start(*command, cwd=ROOT):
        path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "runs")))
        env = os.environ | {"PYTHONPATH": path, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "10"}
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
                  "--local-directory", tmp_path / f"worker-{number}", cwd=folder)
            for number, folder in enumerate(folders)
        ]  # fmt: skip
        return json.loads(address.read_text())["address"], scheduler, workers

    yield make
    for process in processes:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


@slow
def test_a_run_goes_on_with_other_workers_and_another_batch_size(tmp_path, tiny_folder, whole):
    """Begun by one process, killed; continued by two, stopped by Ctrl-C; ended by two with other batches."""
    run = Run(tmp_path, tiny_folder)
    end(run.begin())
    kept = run.rows
    second = run.begin(2, kept + 32)
    os.killpg(second.pid, signal.SIGINT)  # as a terminal does: to all processes
    _, said = second.communicate(timeout=300)
    assert "Stopping after the batch in hand" in said and second.returncode != 0
    assert kept < run.rows < run.total
    assert_same_but_for_rounding(Run(tmp_path, tiny_folder, batch_size=50).finish(workers=2), whole)


@slow
def test_whoever_is_killed_costs_nothing(tmp_path, tiny_folder, whole, cluster):
    """First the driver, which another one continues with the same cluster; then each worker."""
    address, _, workers = cluster()
    run = Run(tmp_path / "run", tiny_folder)
    end(run.begin(address))
    kept = run.lines
    driver = run.begin(address, run.rows + 32)
    for worker in workers:  # one after the other: what Dask calls a nanny starts each again
        [inner] = [
            child
            for child in psutil.Process(worker.pid).children(recursive=True)
            if "spawn" in " ".join(child.cmdline())
        ]
        inner.kill()
        run.wait_for(min(run.rows + 64, run.total), driver)
    _, said = driver.communicate(timeout=300)
    assert driver.returncode == 0, said[-3000:]
    assert run.lines.startswith(kept)
    assert_same_but_for_rounding(run.results, whole)


@slow
def test_a_scheduler_that_is_killed_loses_nothing(tmp_path, tiny_folder, whole, cluster):
    address, scheduler, _ = cluster()
    run = Run(tmp_path / "run", tiny_folder)
    driver = run.begin(address)
    scheduler.kill()
    _, said = driver.communicate(timeout=300)
    assert driver.returncode != 0 and "the Dask scheduler is gone" in said
    assert 64 <= run.rows < run.total
    assert_same_but_for_rounding(run.finish(), whole)


@slow
def test_workers_with_different_models_are_refused(tmp_path, tiny_folder, cluster, monkeypatch):
    """The same name, another file on one machine."""
    for machine in ("one", "other"):
        shutil.copytree(tiny_folder, tmp_path / machine / "llama")
    weights = bytearray((tmp_path / "other" / "llama" / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (tmp_path / "other" / "llama" / "model.safetensors").write_bytes(weights)
    address, *_ = cluster([tmp_path / "one", tmp_path / "other"])
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")
    monkeypatch.chdir(tmp_path / "one")
    time.sleep(5)
    with pytest.raises(InputError, match="a worker reads other rows than it was asked for: another model"):
        plan = make_plan(["Titanic", "Star Wars"], layers="all", amplifiers=range(1, 60), max_new_tokens=2)
        make_readings("llama", tmp_path, workers=address, batch_size=2).of("x.csv", [plan])


@slow
def test_experiments_share_the_workers_of_a_session(tmp_path, tiny_folder, monkeypatch):
    """They are started once, and both give the rows of one process."""
    from helpers.runs import cluster

    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")
    started, make = [], cluster.distributed.LocalCluster
    monkeypatch.setattr(cluster.distributed, "LocalCluster", lambda **options: started.append(1) or make(**options))
    plans = [make_plan("Titanic", layers="all", amplifiers=(1, 2), token=token, max_new_tokens=2) for token in (-1, 0)]
    which = ModelSettings.of({"model": str(tiny_folder)})
    with Session(which, QuickJudge()) as session:
        two = [make_readings(tiny_folder, tmp_path / "two", None, session, workers=2).of(f"{number}.csv", [plan])
               for number, plan in enumerate(plans)]  # fmt: skip
    assert started == [1] and two[0].attrs["machine"]["workers"] == 2 and not session.has_weights
    alone = Session(which, QuickJudge())
    for number, (plan, rows) in enumerate(zip(plans, two, strict=True)):
        same = make_readings(tiny_folder, tmp_path / "one", None, alone, new=True).of(f"{number}.csv", [plan])
        assert same.to_csv() == rows.to_csv()


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
    import helpers.runs.cluster

    monkeypatch.setattr(helpers.runs.cluster, "PATIENCE", 1)
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")
    with pytest.raises(InputError) as refused:
        make_readings(tiny_folder, tmp_path, workers=workers).of("x.csv", [make_plan("Titanic", layers=1)])
    assert str(refused.value).startswith(words)


def test_the_slurm_recipe_makes_a_job_of_one_worker_and_one_gpu():
    """The documentation's own words; no queue is needed to write the job's script."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue isn't installed: requirements-cluster.txt")
    text = (ROOT / "docs" / "long-runs.md").read_text(encoding="utf-8")
    [recipe] = [block for block in text.split("```python\n")[1:] if "SLURMCluster" in block.partition("```")[0]]
    made = {}
    exec(recipe.partition("cluster.scale")[0], made)
    try:
        script = made["cluster"].job_script()
    finally:
        made["cluster"].close()
    assert "#SBATCH --gpus=1" in script and "#SBATCH --cpus-per-task=8" in script and "--no-nanny" in script
    assert script.count("dask_worker") == 1 or script.count("dask worker") == 1


def test_without_dask_it_says_how_to_get_it(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "helpers.runs.cluster", raising=False)
    with pytest.raises(InputError, match="workers=1: needs Dask: pip install -r requirements-cluster.txt"):
        make_readings(tiny_folder, tmp_path, workers=1).of("x.csv", [make_plan("Titanic", layers=1)])
