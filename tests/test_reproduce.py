"""The notebooks, run as users run them, and the settings that they refuse."""

import ast
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import psutil
import pytest

from helpers import ROOT, InputError
from helpers.ledger import WORK, rows_in, run_folder
from helpers.parameters import check_parameters, parse_settings, plans_of, read_parameters
from helpers.reproduce import NEED_EVALUATIONS, NOTEBOOKS, ON_REQUEST, PAPER, QUICK, main
from helpers.results import read_results
from helpers.superscopes import ROW_COLUMNS

LEAD_HERE = "smollm2-135m"
DEFAULTS = {name: read_parameters(name) for name in NOTEBOOKS}


@pytest.fixture(autouse=True)
def no_state_is_left(tmp_path):
    """Runs of the tests' own folders leave nothing in runs/work/."""
    before = set(WORK.iterdir()) if WORK.is_dir() else set()
    yield
    for folder in set(WORK.iterdir()) - before if WORK.is_dir() else ():
        shutil.rmtree(folder)


def test_every_notebook_on_a_small_setting(tmp_path, capfd):
    """One real run of all three: files, rows, figure, executed copies."""
    assert main(["num_prompts=3", "layers=1,5", "amplifiers=1,4", f"out_dir={tmp_path}"]) == 0
    said = capfd.readouterr().out
    assert "smollm2-135m: 12 mlp_output + 12 hidden_state interpretations, about 1 min" in said
    for component, target in (("mlp_output", None), ("hidden_state", 0)):
        rows = read_results(tmp_path / f"{component}.csv")
        assert tuple(rows.columns) == ROW_COLUMNS and len(rows) == 12
        assert set(rows["component"]) == {component}
        assert (rows["target layer"] == (rows["layer"] if target is None else target)).all()
        assert json.loads((tmp_path / f"{component}.json").read_text())["plan"]["prompts"] == 3
    counts = pd.read_csv(tmp_path / "layer_success.csv")
    assert len(counts) == 8 and set(counts["method"]) == {"Patchscopes", "Superscopes"}
    assert (tmp_path / "layer_success.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "layer_success.pdf").read_bytes().startswith(b"%PDF")
    for name in NOTEBOOKS:
        text = (tmp_path / "notebooks" / f"{name}.ipynb").read_text()
        assert "papermill" not in json.loads(text)["metadata"] and str(ROOT) not in text and "stderr" not in text

    # The figure alone, of what the evaluations left.
    before = (tmp_path / "layer_success.png").read_bytes()
    (tmp_path / "layer_success.png").unlink()
    assert main(["--only", "layer_success_plots", f"out_dir={tmp_path}"]) == 0
    assert (tmp_path / "layer_success.png").read_bytes() == before

    # The figure alone, of a published file without scores, in a folder with a space.
    published = tmp_path / "their results.csv"
    rows[["source prompt", "token", "layer", "amplification value", "result"]].to_csv(published, index=False)
    out = tmp_path / "published results"
    settings = [f"results={published}", "model=llama-2-13b-chat", f"out_dir={out}"]
    assert main(["--only", "layer_success_plots", *settings]) == 0
    assert (pd.read_csv(out / "layer_success.csv")["component"] == "mlp_output").all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["modle=x"], "setting='modle': unknown; did you mean 'model'? known: model, dtype"),
        (["layers"], "setting='layers': expected NAME=VALUE"),
        (["--all", "target_layer=0"], "target_layer=[0]: what mlp_output is compared with was read with ['same']"),
        (["--all", "temperature=0.6"], "decoding={'temperature': 0.6, 'top_p': 0.9}: what mlp_output is compared"),
        (["--all", "amplifiers=1,4"], "amplifiers=[1.0, 4.0]: lacks [3, 6, 9, 12, 15] for mlp_output"),
        (["--study", "--quick"], "--study='--quick': goes with neither"),
        (["--only", "figure3"], "--only='figure3': expected one of mlp_output_evaluation"),
        (["revison=main"], "setting='revison': unknown; did you mean 'revision'?"),
        (["source_options={}"], "setting='source_options': unknown"),
        (["quantization=3bit"], "quantization='3bit': expected one of 4bit, 8bit"),
        (["trust_remote_code=yes"], "trust_remote_code='yes': expected true or false"),
        (["adapter=nowhere"], "adapter='nowhere': expected a PEFT folder"),
        (["--model", "gpt-5/none.gguf"], "model='gpt-5/none.gguf': expected smollm2-135m"),
        (["layers=1-40"], "layers=40: this model has layers 0–29"),
        (["layers=x"], "layers='x': expected"),
        (["token=Zebra"], "token='Zebra': is not in 'Pink Floyd'; its tokens are 0:'P'"),
        (["num_prompts=many"], "num_prompts='many': expected a whole number"),
        (["num_prompts=-1"], "num_prompts=-1"),
        (["amplifiers=1,nan"], "amplifiers='nan': expected finite"),
        (["amplifiers="], "amplifiers=[]: expected at least one"),
        (["batch_size=-1"], "batch_size=-1: expected"),
        (["seed=1.5"], "seed='1.5': expected a whole number"),
        (["seed=007"], "seed='007': expected a whole number"),
        (["seed=1_000"], "seed='1_000': expected a whole number"),
        (["temperature=hot"], "temperature='hot': expected a number"),
        (["temperature=1", "top_p=2"], "top_p=2"),
        (["target_layer=30"], "target_layer=30"),
        (["max_new_tokens=0"], "max_new_tokens=0"),
        (["dtype=int8"], "dtype='int8'"),
        (["device=tpu"], "device='tpu'"),
        (["prompts=no.csv"], "prompts='no.csv': no such file"),
        (["--model", "smolm2"], "model='smolm2': expected smollm2-135m"),
        (["--only", "layer_success_plots", "out_dir=runs/nowhere"], "results="),
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


def test_bad_input_that_only_a_notebook_sees_is_exit_code_2_too(tmp_path, capfd):
    arguments = ["--only", "layer_success_plots", "results=nowhere.csv", f"out_dir={tmp_path}"]
    assert main(arguments) == 2
    assert capfd.readouterr().err.strip().endswith("results='nowhere.csv': no such file")
    assert not list(tmp_path.iterdir())


def started(tmp_path, *settings):
    """A command in a process of its own, whose first sweep has begun."""
    command = [sys.executable, "-m", "helpers.reproduce", "--only", "mlp_output_evaluation", f"out_dir={tmp_path}"]
    env = os.environ | {"TQDM_MININTERVAL": "0"}
    command += ["batch_size=16", "num_prompts=5", *settings]
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)
    seen = ""
    while "row/s, " not in seen:  # progress is told: the model is loaded and the sweep has begun
        seen += (letter := run.stderr.read(1))
        assert letter, f"ended early: {seen}"
    return command, run


def the_kernel(run) -> psutil.Process:
    return next(one for one in psutil.Process(run.pid).children() if "ipykernel" in " ".join(one.cmdline()))


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_stopped_run_changes_nothing_and_goes_on(tmp_path, signum, code):
    """Stopped while the first notebook reads: the batch in hand is kept, and the command that resumes is printed."""
    command, run = started(tmp_path)
    run.send_signal(signum)
    _, rest = run.communicate(timeout=60)
    assert run.returncode == code, rest
    assert "Stopping after the batch in hand" in rest and "rows are kept in runs/work/" in rest
    assert rest.rstrip().endswith(f"  ./runme.sh reproduce --only mlp_output_evaluation {' '.join(command[5:])}")
    assert not list(tmp_path.iterdir()), "nothing was finished"
    ledgers = run_folder(tmp_path) / "mlp_output"
    assert 0 < (rows := rows_in(ledgers)) < 210 and rows % 16 == 0
    read = (ledgers / "rows.jsonl").read_bytes()
    if signum == signal.SIGTERM:
        assert main(command[3:]) == 0
        assert (ledgers / "rows.jsonl").read_bytes().startswith(read)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "words"), [(signal.SIGTERM, "rows are kept"), (signal.SIGKILL, "was killed")])
def test_a_notebook_that_is_killed_goes_on(tmp_path, signum, words):
    """SIGTERM to papermill's kernel, and SIGKILL, as the system does where memory is short."""
    command, run = started(tmp_path)
    the_kernel(run).send_signal(signum)
    _, rest = run.communicate(timeout=60)
    assert run.returncode == 143 and words in rest, rest
    assert not list(tmp_path.iterdir())
    assert main(command[3:]) == 0
    assert len(read_results(tmp_path / "mlp_output.csv")) == 210


@pytest.mark.slow
def test_a_figure_that_fails_is_drawn_alone(tiny_folder, tmp_path):
    """The process that draws is killed; the readings before it are through."""
    command = [
        sys.executable,
        "-u",
        "-m",
        "helpers.reproduce",
        "--model",
        str(tiny_folder),
        "num_prompts=6",
        "layers=1",
    ]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen([*command, f"out_dir={tmp_path}"], start_new_session=True, **options)
    while "[3/3]" not in (line := run.stdout.readline()):
        assert line
    time.sleep(2)
    the_kernel(run).kill()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 143 and "the process of layer_success_plots was killed" in said
    done = subprocess.run([*command, f"out_dir={tmp_path}"], **options)
    assert done.returncode == 0 and done.stdout.count("through already") == 2
    assert (tmp_path / "layer_success.png").is_file()


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been(tiny_folder, tmp_path):
    settings = ["--model", str(tiny_folder), "num_prompts=6", "layers=1,2"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*settings, f"out_dir={whole}"]) == 0
    command = [sys.executable, "-u", "-m", "helpers.reproduce", *settings, f"out_dir={stopped}"]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    run = subprocess.Popen(command, start_new_session=True, **options)
    while "[2/3]" not in (line := run.stdout.readline()):
        assert line
    time.sleep(2)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2 and f"is in use by process {run.pid} on" in again.stderr
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130 and not list(stopped.iterdir())
    done = subprocess.run(command, **options)
    assert done.returncode == 0 and "mlp_output_evaluation.ipynb: through already" in done.stdout
    names = ("mlp_output.csv", "hidden_state.csv", "layer_success.csv", "layer_success.png")
    for name in names:
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
        (stopped / name).unlink()
    done = subprocess.run(command, **options)
    assert done.returncode == 0 and "Nothing is left to do" in done.stdout
    for name in names:
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    # Other settings in the same folder, while these are finished: beside them.
    assert main([*settings, f"out_dir={stopped}", "amplifiers=1,2", "--only", "mlp_output_evaluation"]) == 0


@pytest.mark.slow
def test_a_run_that_begins_anew_goes_on_when_it_was_stopped(tmp_path, capfd):
    """Beside an unfinished one; the command that is printed, without --new, takes up the new one."""
    command, run = started(tmp_path)
    run.send_signal(signal.SIGINT)
    assert run.communicate(timeout=60) and run.returncode == 130
    first = run_folder(tmp_path) / "mlp_output"
    kept = (first / "rows.jsonl").read_bytes()
    other = [*command[3:], "layers=2"]
    assert main(other) == 2 and "layers (" in capfd.readouterr().err
    _, run = started(tmp_path, "layers=2", "--new", "batch_size=2")
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    again = shlex.split(said.strip().splitlines()[-1])
    assert again[:2] == ["./runme.sh", "reproduce"] and "--new" not in again
    read = (first.with_name("mlp_output-2") / "rows.jsonl").read_bytes()
    assert read and main(again[2:]) == 0
    assert (first.with_name("mlp_output-2") / "rows.jsonl").read_bytes().startswith(read)
    assert (first / "rows.jsonl").read_bytes() == kept and not first.with_name("mlp_output-3").exists()


@pytest.mark.slow
def test_every_notebook_of_the_paper_on_a_model_that_knows_nothing(tiny_folder, tmp_path, capfd):
    """Random weights: each notebook runs through, writes what it says, and claims no effect."""
    settings = ["num_prompts=10", "layers=1,2", "sums=mlp_sum[1-2]", "walkthrough_layers=0-2", f"out_dir={tmp_path}"]
    assert main(["--all", "--model", str(tiny_folder), *settings]) == 0
    said = capfd.readouterr().out
    assert "does not hold on tiny-llama" in said and "no gain that is certain" in said
    for name in NOTEBOOKS + PAPER:
        assert (tmp_path / "notebooks" / f"{name}.ipynb").is_file()
    for name in PAPER:
        assert (tmp_path / f"{name}.png").stat().st_size < 300 << 10
        found = tmp_path / ("effect_and_scoring.json" if name == "effect_and_scoring" else f"{name}_found.json")
        assert json.loads(found.read_text())["verdict"]
    effects = pd.read_csv(tmp_path / "every_component_found.csv")
    assert (effects["p_holm"] > 0.01).mean() > 0.8
    assert main(["--only", "model_sizes", f"folders={tmp_path}", f"out_dir={tmp_path / 'sizes'}"]) == 0
    assert set(pd.read_csv(tmp_path / "sizes" / "model_sizes.csv")["model"]) == {"tiny-llama"}


def test_one_item_of_the_paper_alone(tmp_path, capfd):
    assert main(["--only", "guidance", "layers=5", "amplifiers=0,1,2", f"out_dir={tmp_path}"]) == 0
    said = capfd.readouterr().out
    assert "smollm2-135m: 8 guidance interpretations" in said and "word for word, in 1 of 1 layers" in said
    assert {path.name for path in tmp_path.iterdir()} >= {"guidance.png", "guidance.csv.gz", "guidance_found.csv"}


@pytest.mark.parametrize("name", NEED_EVALUATIONS)
def test_what_reads_the_evaluations_says_that_they_are_missing(name, tmp_path, capfd):
    assert main(["--only", name, f"out_dir={tmp_path}"]) == 2
    assert capfd.readouterr().err.startswith("results=") and not list(tmp_path.iterdir())


def test_settings_take_the_kind_of_the_default():
    settings = ["layers=all", "amplifiers=1,1.5, 2e0", "token=Wales", "target_layer=3", "seed=5", "temperature=0.6"]
    given = parse_settings([*settings, "target_prompt=a: b, x"], DEFAULTS)
    assert given == {
        "layers": "all", "amplifiers": [1, 1.5, 2.0], "token": "Wales", "target_layer": 3, "seed": 5,
        "temperature": 0.6, "target_prompt": "a: b, x",
    }  # fmt: skip
    assert parse_settings(["token=-2", "results=a.csv,b.csv"], DEFAULTS) == {"token": -2, "results": ["a.csv", "b.csv"]}
    assert parse_settings(['token="5"'], DEFAULTS) == {"token": "5"}
    sums = {"sums": ["mlp_sum[1-3]", "mlp_sum[2-4]"]}
    for text in ("mlp_sum[1-3],mlp_sum[2-4]", "[mlp_sum[1-3], mlp_sum[2-4]]"):
        assert parse_settings([f"sums={text}"], {"every_component": read_parameters("every_component")}) == sums
    source = {"revision": "v1.0", "device_map": "auto", "allow_pickle": True}
    settings = ["revision=v1.0", "device_map=auto", "allow_pickle=true"]
    assert parse_settings(settings, DEFAULTS) == {"source_options": source}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"modle": "x"}, "modle='x': unknown; did you mean 'model'? known: model, source_options"),
        ({"batch_size": "007"}, "batch_size='007': expected a value like 0, got str"),
        ({"seed": True}, "seed=True: expected a value like 0, got bool"),
        ({"dtype": 16}, "dtype=16: expected a value like 'float32', got int"),
        ({"temperature": "hot"}, "temperature='hot': expected a value like 0.0, got str"),
    ],
)
def test_a_notebook_refuses_parameters_that_it_does_not_have(given, words):
    """As papermill gives them to it, with what IPython puts there."""
    name = "mlp_output_evaluation"
    theirs = {"In": [], "Out": {}, "get_ipython": print, "_": 1}
    check_parameters(name, read_parameters(name) | {"pd": pd, "mine": 3, "In": [""] * 9})  # it runs again
    check_parameters(name, read_parameters(name) | {"temperature": 1, "layers": [1, 2], "token": "Wales"} | theirs)
    with pytest.raises(InputError) as refused:
        check_parameters(name, read_parameters(name) | theirs | given)
    assert str(refused.value).startswith(words)


def test_papermill_alone_is_refused_a_misspelt_name(tmp_path):
    command = [
        sys.executable,
        "-m",
        "papermill",
        ROOT / "notebooks" / "layer_success_plots.ipynb",
        tmp_path / "out.ipynb",
    ]
    run = subprocess.run([*command, "-k", "python3", "-p", "treshold", "0.4"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and "treshold=0.4: unknown; did you mean 'threshold'?" in run.stderr


def test_the_papers_settings_are_the_defaults():
    [mlp] = plans_of("mlp_output_evaluation", DEFAULTS["mlp_output_evaluation"])
    assert (mlp.components, mlp.layers, mlp.amplifiers) == (("mlp_output",), "1-7", (1, 3, 6, 9, 12, 15))
    assert (mlp.target_layers, len(mlp.prompts), mlp.max_new_tokens, mlp.decoding) == (("same",), 48, 10, None)
    [hidden] = plans_of("hidden_state_evaluation", DEFAULTS["hidden_state_evaluation"])
    assert (hidden.components, hidden.target_layers) == (("hidden_state",), (0,))
    assert hidden.amplifiers == (1, 1.3, 1.5, 1.7, 1.9, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("name", NOTEBOOKS + ON_REQUEST)
def test_notebooks_keep_the_house_rules(name):
    """Sources without outputs; literals first; no functions, no path tricks; each parameter explained."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert code[0].metadata.tags == ["parameters"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert all("  # " in line for line in code[0].source.splitlines())
    tree = ast.parse("\n".join(cell.source for cell in code))
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert "sys.path" not in "".join(cell.source for cell in code)
    assert f'check_parameters("{name}", globals())' in code[1].source
    assert set(QUICK) <= set(DEFAULTS["mlp_output_evaluation"])


def test_wrong_parameters_raise_in_the_helpers_too():
    with pytest.raises(InputError):
        plans_of("mlp_output_evaluation", DEFAULTS["mlp_output_evaluation"] | {"layers": "1-40x"})


@pytest.mark.slow
def test_a_study_runs_every_model_that_is_here(tmp_path, capfd, monkeypatch):
    """The default model alone, few prompts; results in a folder of the test's own."""
    pictures = []
    monkeypatch.setattr("helpers.reproduce.results_folder", lambda model, *where, **options: tmp_path / model)
    monkeypatch.setattr("helpers.reproduce.is_here", lambda alias: alias == LEAD_HERE)
    monkeypatch.setattr("helpers.reproduce.LEAD", LEAD_HERE)
    monkeypatch.setattr("helpers.reproduce.as_jpeg", lambda picture, path: pictures.append((picture, path.name)))
    assert main(["--study", "num_prompts=6", "layers=1,3"]) == 0
    said = capfd.readouterr().out
    assert "1 of 4 catalogue models are here: smollm2-135m" in said and "== smollm2-135m" in said
    assert (tmp_path / LEAD_HERE / "stability_found.json").is_file()
    assert (tmp_path / "model_sizes" / "model_sizes.png").is_file()
    assert pictures == [(tmp_path / LEAD_HERE / "story_best.png", "Superscopes.jpg")]
