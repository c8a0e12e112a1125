"""The README's commands exist, its example prints what it shows, and its numbers are those in data/."""

import contextlib
import io
import json
import re

import pandas as pd

from helpers import ROOT
from helpers.plans import COMPONENTS
from helpers.reproduce import NOTEBOOKS, parse_settings, read_parameters

README = (ROOT / "README.md").read_text()
NAMES = {"mlp_output": "MLP outputs", "hidden_state": "hidden states"}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def test_every_command_is_one_that_runme_takes():
    defaults = {name: read_parameters(name) for name in NOTEBOOKS}
    commands = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    assert len(commands) > 8
    for command in commands:
        words = command.split("  #")[0].split()
        if words[0] == "pip":
            assert (ROOT / words[-1]).is_file()
            continue
        assert words[0] == "./runme.sh"
        verb = [word for word in words[1:2] if word in ("test", "lab")]
        if not verb:
            parse_settings([word for word in words[1:] if "=" in word], defaults)
            assert {word for word in words if word.startswith("--")} <= {"--quick", "--model", "--only"}


def test_the_python_example_prints_what_the_page_shows():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(blocks("python")[0], {})
    assert printed.getvalue() == blocks("text")[0]


def test_every_file_that_the_page_links_to_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_results_table_is_what_data_says():
    overall = json.loads((ROOT / "data/smollm2-135m/layer_success.json").read_text())["overall"]
    assert len(overall) == 4
    counts = pd.read_csv(ROOT / "data/smollm2-135m/layer_success.csv")
    for row in overall:
        tries = counts[(counts["component"] == row["component"]) & (counts["method"] == row["method"])]["tries"].max()
        what = "α = 1" if row["method"] == "Patchscopes" else f"best of {tries}"
        line = (
            f"| SmolLM2-135M, {NAMES[row['component']]}, {row['method']} ({what}) | "
            f"{row['interpreted']} of {row['pairs']} | {row['null_mean']:.1f} ({row['null_low']} to {row['null_high']}) |"
        )
        assert line in README
    amplified = [row for row in overall if row["method"] == "Superscopes"]
    within = {row["component"]: row["interpreted"] <= row["null_high"] for row in amplified}
    assert within == {"mlp_output": True, "hidden_state": False}, "the paragraph below the table says so"
    assert set(within) <= set(COMPONENTS)


def test_the_papers_counts_are_the_reference_files():
    reference = pd.read_csv(ROOT / "data/reference/llama-2-13b-chat.csv")
    for method, rows in reference.groupby("method"):
        assert ", ".join(map(str, rows["interpreted"])) in README.replace("\n", " ")
        assert re.search(rf"MLP outputs, {method}\* \| \*{rows['interpreted'].sum()} of 336\*", README)


def test_the_speed_is_what_was_measured():
    table = pd.read_csv(ROOT / "benchmarks/results/speed.csv").set_index("dtype")
    speed = table["ratio"]
    assert speed["float32"] >= 15, "the foundation's promise"
    flat = README.replace("\n", " ")
    assert f"{speed['float32']:.0f} times the plain way's rows per second in float32" in flat
    assert f"{speed['bfloat16']:.0f} times in bfloat16" in flat
    assert table["same texts"]["float32"] == "12 of 12"
    assert f"{table['same texts']['bfloat16']} texts were the plain way's own" in flat
