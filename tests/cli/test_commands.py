"""What can be typed: help, completion, one-sentence errors, and how fast the light commands answer."""

import os
import subprocess
import sys

import pytest

from helpers import ROOT
from helpers.cli import main
from helpers.cli.commands import cli
from helpers.experiments import EXPERIMENTS
from helpers.models.catalogue import CATALOGUE
from helpers.words.labels import LabelSettings
from helpers.words.lenses import LensSettings

COMMANDS = [
    "reproduce", "check", "models", "app", "label", "read", "bench", "lens", "status", "clean", "score", "test", "lab",
    "docs", "help",
]  # fmt: skip
HEAVY = ("torch", "transformers", "pandas", "numpy", "scipy", "matplotlib", "papermill", "nbformat", "gradio", "rich")


def answered(arguments: list[str], capfd) -> str:
    assert main(arguments) == 0
    return capfd.readouterr().out


def test_help_lists_the_commands(capfd):
    page = answered(["help"], capfd)
    assert [command.callback.__name__ for command in cli.registered_commands] == COMMANDS
    for command in COMMANDS:
        assert f"\n  {command} " in page
    assert "130 and 143 stopped" in " ".join(page.split())
    assert answered(["--help"], capfd) == answered(["-h"], capfd) == page


def test_help_for_a_command_lists_experiments_and_settings(capfd):
    page = answered(["help", "reproduce"], capfd)
    assert answered(["reproduce", "--help"], capfd) == answered(["--all", "--help"], capfd) == page
    flat = " ".join(page.split())
    for name, experiment in EXPERIMENTS.items():
        assert f"{name} {' '.join(experiment.QUESTION.split())}" in flat
        for setting in experiment.Settings.model_fields:
            assert setting == "source_options" or f"\n  {setting} " in page
    for option in ("--model", "--quick", "--only", "--all", "--study", "--new", "--workers", "--scheduler", "adapter"):
        assert option in page
    assert "--unfinished" in answered(["help", "clean"], capfd)
    page = answered(["help", "label"], capfd)
    for setting in LabelSettings.model_fields:
        assert setting == "source_options" or f"\n  {setting} " in page
    assert "num_prompts" not in page and "--component" in page
    page = answered(["help", "lens"], capfd)
    for setting in LensSettings.model_fields:
        assert setting == "source_options" or f"\n  {setting} " in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tst"], "command='tst': unknown; did you mean 'test'? known: reproduce, check"),
        (["help", "figure"], "command='figure': unknown; known: reproduce, check"),
        (["--treshold", "0.3"], "No such option: --treshold"),
        (["reproduce", "--only"], "Option '--only' requires an argument"),
        (["--workers", "many"], "Invalid value for '--workers'"),
        (["status", "all"], "Got unexpected extra argument"),
        (["score"], "Missing argument 'FOLDER'"),
        (["--only", "story", "--all"], "--only='--all': can't be combined"),
        (["--study", "--quick"], "--study='--quick': can't be combined"),
        (["--study", "--model", "x"], "--study='--model': can't be combined"),
        (["--workers", "2", "--scheduler", "tcp://here:1"], "--workers='--scheduler': can't be combined"),
        (["models", "llama"], "model='llama': not in the catalogue"),
    ],
)
def test_what_is_typed_wrongly_is_one_sentence_and_exit_code_2(arguments, words, capfd):
    assert main(arguments) == 2
    said = capfd.readouterr()
    assert said.err.startswith(words) and said.err.count("\n") == 1 and not said.out


def test_models_lists_the_catalogue(capfd):
    page = answered(["models"], capfd)
    assert all(alias in page for alias in CATALOGUE)


def asked_of(line: str) -> dict[str, str]:
    """Return what bash sets to ask what may follow a line."""
    count = str(len(line.split(" ")) - 1)
    return {"_SUPERSCOPES_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": count}


def test_the_shell_completes_what_is_typed(monkeypatch, capfd):
    env = os.environ | asked_of("superscopes ")
    done = subprocess.run([sys.executable, "-m", "helpers.cli"], env=env, cwd=ROOT, capture_output=True, text=True)
    assert set(done.stdout.split()) >= set(COMMANDS)

    def completed(line: str) -> list[str]:
        for name, value in asked_of(line).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            main([])
        return capfd.readouterr().out.split()

    assert completed("superscopes --only st") == [name for name in EXPERIMENTS if name.startswith("st")]
    assert completed("superscopes --model gem") == ["gemma-3-270m"]
    assert "--quick" in completed("superscopes --qu")
    assert completed("superscopes reproduce amplif") == ["amplifiers="]
    assert completed("superscopes label x y compo") == ["component="]
    assert completed("superscopes label --component hid") == ["hidden_state"]


LIGHT = [  # commands and their exit codes
    (["help"], 0),
    (["help", "reproduce"], 0),
    (["status"], 0),
    (["models"], 0),
    (["modle=x"], 2),
    (["label", "Titanic", "film"], 2),
    (["label", "Titanic", "film, ship", "layers=x"], 2),
    (["--all", "layers=x"], 2),
    (["--only", "layer_success_plots", "out_dir=runs/nowhere"], 2),
]


def test_the_ground_floor_is_light():
    """Nothing heavy is imported, so that an answer takes half a second: one after another in a fresh process."""
    script = f"""
import sys
from helpers.cli import main
for arguments, code in {LIGHT!r}:
    ended = main(arguments)
    print("ended:", ended == code, *sorted(set({HEAVY!r}) & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    told = [line for line in done.stdout.splitlines() if line.startswith("ended:")]
    assert told == ["ended: True"] * len(LIGHT), done.stderr
