"""The command that reproduces the paper: what it refuses, what it announces, and how it stops and continues."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest

from helpers import ROOT, InputError
from helpers.cli import main
from helpers.cli.reproduce import QUICK, settle
from helpers.experiments import EXPERIMENTS, names
from helpers.runs.ledger import rows_in, run_folder
from helpers.runs.results import read_results
from helpers.words.rows import ROW_COLUMNS

DEFAULT_MODEL = "smollm2-135m"


@pytest.fixture(autouse=True)
def no_state_is_left(tmp_path):
    """Runs into a test's folder leave nothing in runs/work/."""
    yield
    for folder in (tmp_path, *tmp_path.rglob("*/")):
        shutil.rmtree(run_folder(folder), ignore_errors=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["modle=x"], "setting='modle': unknown; did you mean 'model'? known: "),
        (["reproduce", "layers"], "setting='layers': expected NAME=VALUE"),
        (["--all", "target_layer=0"], "target_layer=[0]: what mlp_output is compared with was read with ['same']"),
        (["--all", "temperature=0.6"], "decoding={'temperature': 0.6, 'top_p': 0.9}: what mlp_output is compared"),
        (["--all", "amplifiers=1,4"], "amplifiers=[1.0, 4.0]: lacks [3, 6, 9, 12, 15] for mlp_output"),
        (["--study", "out_dir=x"], "--study='out_dir=x': each model has its own folder"),
        (["--only", "figure3"], "--only='figure3': expected one of mlp_output_evaluation"),
        (["revison=main"], "setting='revison': unknown; did you mean 'revision'?"),
        (["source_options={}"], "setting='source_options': unknown"),
        (["quantization=3bit"], "quantization='3bit': expected one of 4bit, 8bit"),
        (["trust_remote_code=yes"], "trust_remote_code='yes': expected true or false"),
        (["adapter=nowhere"], "adapter='nowhere': expected a PEFT folder"),
        (["parts=attention:mixer"], "parts={'attention': 'mixer'}: expected the modules of a block"),
        (["--model", "gpt-5/none.gguf"], "model='gpt-5/none.gguf': expected smollm2-135m"),
        (["layers=1-40"], "layers=40: this model has layers 0–29"),
        (["layers=0-999999999999"], "layers=999999999999: this model has layers 0–29"),
        (["layers=x"], "layers='x': expected"),
        (["token=Zebra"], "token='Zebra': is not in 'Pink Floyd'; its tokens are 0:'P'"),
        (["num_prompts=many"], "num_prompts='many': expected a whole number"),
        (["num_prompts=-1"], "num_prompts=-1"),
        (["amplifiers=1,nan"], "amplifiers='nan': expected finite"),
        (["amplifiers=1:2:0"], "amplifiers='1:2:0': expected from:to:step"),
        (["amplifiers="], "amplifiers=[]: expected at least one"),
        (["batch_size=-1"], "batch_size=-1: expected"),
        (["seed=1.5"], "seed=1.5: expected a whole number"),
        (["seed=007"], "seed='007': expected a whole number"),
        (["seed=1_000"], "seed='1_000': expected a whole number"),
        (["temperature=hot"], "temperature='hot': expected a number"),
        (["temperature=1", "top_p=2"], "top_p=2"),
        (["target_layer=30"], "target_layer=30"),
        (["target_prompt={a} {b"], "target_prompt="),
        (["max_new_tokens=0"], "max_new_tokens=0"),
        (["workers=1000"], "workers=1000: expected 0 to"),
        (["dtype=int8"], "dtype='int8'"),
        (["device=tpu"], "device='tpu'"),
        (["prompts=no.csv"], "prompts='no.csv': no such file"),
        (["--model", "smolm2"], "model='smolm2': expected smollm2-135m"),
        (["check", "smolm2"], "model='smolm2': expected smollm2-135m"),
        (["check", DEFAULT_MODEL, "amplifiers=2"], "setting='amplifiers': unknown; known: model"),
        (["out_dir=/proc/nowhere"], "out_dir='/proc/nowhere': can't be written"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, words, capfd):
    assert main(arguments) == 2
    said = capfd.readouterr()
    assert said.err.startswith(words) and said.err.count("\n") == 1 and "[1/" not in said.out
    assert not [path for path in (ROOT / "data").iterdir() if path.is_dir() and not any(path.iterdir())]


def test_an_empty_prompt_is_refused(tmp_path, capfd):
    (tmp_path / "prompts.csv").write_text('prompt\nTitanic\n""\n')
    assert main([f"prompts={tmp_path / 'prompts.csv'}"]) == 2
    assert "row 2 is blank" in capfd.readouterr().err


@pytest.mark.parametrize("name", [name for name, experiment in EXPERIMENTS.items() if experiment.NEEDS])
def test_what_reads_the_evaluations_says_that_they_are_missing(name, tmp_path, capfd):
    if "results" not in EXPERIMENTS[name].Settings.model_fields:
        return
    assert main(["--only", name, f"out_dir={tmp_path}"]) == 2
    assert capfd.readouterr().err.startswith("results=") and not list(tmp_path.iterdir())


def test_a_command_settles_the_settings_of_each_experiment(tmp_path, monkeypatch):
    """What is given goes where it is known, quick before the defaults, and paths are those from where the user stands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.csv").write_text("prompt\nTitanic\n")
    (tmp_path / "some-model").mkdir()
    settings, model, folder = settle(names("default", "paper"), ["prompts=my.csv", "layers=2"], "some-model", quick=True)
    assert model == str(tmp_path / "some-model") and folder == ROOT / "runs/quick/some-model"
    for given in settings.values():
        assert getattr(given, "prompts", "") in ("", str(tmp_path / "my.csv"))
        assert getattr(given, "num_prompts", 8) == QUICK["num_prompts"]
    assert settings["mlp_output_evaluation"].layers == "2"
    for given in (["model=a", "model=b"], ["model=a"]):
        with pytest.raises(InputError, match="model='[bc]': given twice"):
            settle(["guidance"], given, "" if len(given) > 1 else "c")
    settings, _, folder = settle(["guidance"], ["amplifiers=0:3:0.5", "adapter=", "revision=v1"])
    assert settings["guidance"].amplifiers == (0, 0.5, 1, 1.5, 2, 2.5, 3) and folder == ROOT / "data/smollm2-135m@v1"


def test_files_that_an_experiment_needs_are_read_before_any_notebook_runs():
    """So that notebooks can run side by side: no notebook waits for a file that another one writes."""
    tables = {experiment.TABLE for experiment in EXPERIMENTS.values() if not getattr(experiment, "LOADS_MODEL", False)}
    for experiment in EXPERIMENTS.values():
        if experiment.WHEN in ("default", "paper"):
            assert {*experiment.NEEDS, *getattr(experiment, "WANTS", ())} <= tables


# With kernels and models


@pytest.mark.slow
def test_the_whole_paper_on_a_model_that_knows_nothing(tiny_folder, tmp_path, capfd):
    """Random weights: each notebook runs through, writes what it says, and claims no effect. Then two figures alone."""
    chosen, out = names("default", "paper"), f"out_dir={tmp_path}"
    settings = ["num_prompts=10", "layers=1,2", "sums=mlp_sum[1-2]", "walkthrough_layers=0-2", out]
    assert main(["--all", "--model", str(tiny_folder), *settings]) == 0
    said = capfd.readouterr()
    assert "tiny-llama: 120 mlp_output + 200 hidden_state + 68 guidance" in said.out
    assert [line for line in said.out.splitlines() if line.startswith("[")] == [
        f"[{number}/{len(chosen)}] notebooks/{name}.ipynb" for number, name in enumerate(chosen, start=1)
    ]
    assert "does not hold on tiny-llama" in said.out and "no gain that is certain" in said.out
    assert "Loading weights" not in said.err and "Error" not in said.err
    for component, amplifiers in (("mlp_output", 6), ("hidden_state", 10)):
        rows = read_results(tmp_path / f"{component}.csv")
        assert set(rows.columns) >= set(ROW_COLUMNS) and len(rows) == 10 * 2 * amplifiers
        assert set(rows["component"]) == {component}
        assert (rows["target layer"] == (rows["layer"] if component == "mlp_output" else 0)).all()
        assert json.loads((tmp_path / f"{component}.json").read_text())["plan"]["prompts"] == 10
    for name in chosen:
        text = (tmp_path / "notebooks" / f"{name}.ipynb").read_text()
        assert "papermill" not in json.loads(text)["metadata"] and str(ROOT) not in text and "stderr" not in text
    assert (tmp_path / "layer_success.pdf").read_bytes().startswith(b"%PDF")
    for name in names("paper"):
        assert (tmp_path / f"{name}.png").stat().st_size < 300 << 10
        found = tmp_path / (f"{name}_found.json" if EXPERIMENTS[name].TABLE else f"{name}.json")
        assert json.loads(found.read_text())["verdict"]
    effects = pd.read_csv(tmp_path / "every_component_found.csv")
    assert (effects["p_holm"] > 0.01).mean() > 0.8
    assert main(["--only", "model_sizes", f"folders={tmp_path}", f"out_dir={tmp_path / 'sizes'}"]) == 0
    assert set(pd.read_csv(tmp_path / "sizes" / "model_sizes.csv")["model"]) == {"tiny-llama"}

    before = (tmp_path / "layer_success.png").read_bytes()
    (tmp_path / "layer_success.png").unlink()
    assert main(["--only", "layer_success_plots", "--model", str(tiny_folder), out]) == 0
    assert (tmp_path / "layer_success.png").read_bytes() == before
    # What only a notebook sees is exit code 2, too.
    capfd.readouterr()
    assert main(["--only", "layer_success_plots", "results=nowhere.csv", out]) == 2
    assert capfd.readouterr().err.strip().endswith("results='nowhere.csv': no such file")
    assert (tmp_path / "layer_success.png").read_bytes() == before


@pytest.mark.slow
def test_check_reads_in_its_notebook(tiny_folder, tmp_path, capfd):
    assert main(["check", str(tiny_folder), f"out_dir={tmp_path}"]) == 0
    assert "tiny-llama: 72 can_it_speak interpretations" in capfd.readouterr().out
    assert (tmp_path / "can_it_speak.png").is_file()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-u", "-m", "helpers.cli", *arguments]


def started(tmp_path: Path, *settings: str, batch_size: int = 16) -> tuple[list[str], subprocess.Popen]:
    """Start a command in another process, and return when it has begun to read."""
    arguments = ["--only", "mlp_output_evaluation", f"out_dir={tmp_path}", f"batch_size={batch_size}", "num_prompts=5", *settings]
    env = os.environ | {"TQDM_MININTERVAL": "0"}
    run = subprocess.Popen(
        command(*arguments), cwd=ROOT, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
    )
    seen = ""
    while "row/s, " not in seen:  # progress is shown: the model is loaded and has read something
        seen += (letter := run.stderr.read(1))
        assert letter, f"ended early: {seen}"
    return arguments, run


@pytest.mark.slow
def test_a_stopped_command_changes_nothing_and_continues(tmp_path, capfd):
    """Stopped while it reads, killed, begun anew beside it: what was read is kept, and the printed command continues."""
    arguments, run = started(tmp_path)
    run.send_signal(signal.SIGINT)
    _, rest = run.communicate(timeout=300)
    assert run.returncode == 130, rest
    assert "Stopping after" in rest and "rows are kept in runs/work/" in rest
    assert shlex.split(rest.strip().splitlines()[-1]) == ["./runme.sh", "reproduce", *arguments]
    assert not list(tmp_path.iterdir()), "nothing was finished"
    first = run_folder(tmp_path) / "mlp_output"
    assert 0 < (rows := rows_in(first)) < 210 and rows % 16 == 0
    kept = (first / "rows.jsonl").read_bytes()

    other = [*arguments, "layers=2"]
    assert main(other) == 2 and "layers (" in capfd.readouterr().err
    _, run = started(tmp_path, "layers=2", "--new", batch_size=2)
    again = subprocess.run(command(*other), cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2 and f"is in use by process {run.pid} on" in again.stderr
    run.send_signal(signal.SIGTERM)
    _, rest = run.communicate(timeout=300)
    assert run.returncode == 143
    again = shlex.split(rest.strip().splitlines()[-1])
    assert again[:2] == ["./runme.sh", "reproduce"] and "--new" not in again
    second = first.with_name("mlp_output-2")
    read = (second / "rows.jsonl").read_bytes()
    assert read and main(again[2:]) == 0
    assert (second / "rows.jsonl").read_bytes().startswith(read)
    assert (first / "rows.jsonl").read_bytes() == kept and not first.with_name("mlp_output-3").exists()


def kernels(run: subprocess.Popen) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(run.pid).children():
        with suppress(psutil.Error):  # it has ended meanwhile
            found += [child] if "ipykernel" in " ".join(child.cmdline()) else []
    return found


def stopped_in_notebook(arguments: list[str], number: str, signum: int, to_kernel: bool) -> tuple[int, str]:
    """Send a signal to a command, or to its newest kernel, when a notebook begins; return the exit code and stderr."""
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen(command(*arguments), start_new_session=True, **options)
    while number not in (line := run.stdout.readline()):
        assert line
    while not (found := kernels(run)):
        assert run.poll() is None
    max(found, key=lambda kernel: kernel.create_time()).send_signal(signum) if to_kernel else run.send_signal(signum)
    _, said = run.communicate(timeout=300)
    return run.returncode, said


@pytest.mark.slow
def test_a_command_continues_that_was_stopped_while_it_draws(tiny_folder, tmp_path, capfd):
    """Stopped by the user among its notebooks, the same command goes on with the rest; then a notebook is killed."""
    model, out = ["--model", str(tiny_folder)], f"out_dir={tmp_path}"
    arguments = [*model, "num_prompts=6", "layers=1,2", out]
    code, said = stopped_in_notebook(arguments, "[3/3]", signal.SIGINT, to_kernel=False)
    assert code == 130 and "this continues:" in said and not list(tmp_path.iterdir())
    assert main(arguments) == 0
    assert "through already" in capfd.readouterr().out, "[3/3] begins when one of the others has ended"
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for path in written:
        path.unlink()
    assert main(arguments) == 0 and "Nothing is left to do" in capfd.readouterr().out
    assert written == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    (tmp_path / "layer_success.png").unlink()
    arguments = [*model, "--only", "layer_success_plots", "threshold=0.4", out]
    code, said = stopped_in_notebook(arguments, "[1/1]", signal.SIGKILL, to_kernel=True)
    assert code == 143 and "the process of layer_success_plots was killed" in said
    assert not (tmp_path / "layer_success.png").exists()


@pytest.mark.slow
def test_a_study_runs_every_model_that_is_here(tmp_path, capfd, monkeypatch):
    """The default model alone, one prompt's story and few evaluations; results in the test's folder."""
    pictures = []
    chosen = {"default": ("mlp_output_evaluation",), "paper": ("story",), "study": ("layer_success_plots",)}
    monkeypatch.setattr("helpers.cli.reproduce.names", lambda *whens: tuple(name for when in whens for name in chosen[when]))
    monkeypatch.setattr("helpers.cli.reproduce.results_folder", lambda model, *where, **options: tmp_path / model)
    monkeypatch.setattr("helpers.cli.reproduce.is_here", lambda alias: alias == DEFAULT_MODEL)
    monkeypatch.setattr("helpers.cli.reproduce.LEAD", DEFAULT_MODEL)
    monkeypatch.setattr("helpers.figures.style.as_jpeg", lambda picture, path: pictures.append((picture, path.name)))
    assert main(["--study", "num_prompts=6", "layers=1,3"]) == 0
    said = capfd.readouterr().out
    assert "1 of 4 catalogue models are here: smollm2-135m" in said and "== smollm2-135m" in said
    assert (tmp_path / DEFAULT_MODEL / "story_found.json").is_file()
    assert (tmp_path / DEFAULT_MODEL / "layer_success.png").is_file()
    assert pictures == [(tmp_path / DEFAULT_MODEL / "story_best.png", "Superscopes.jpg")]
