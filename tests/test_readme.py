"""The README's commands exist, its example prints what it shows, and its numbers are those in data/."""

import contextlib
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import readme_numbers
import transformers
from conftest import SOURCES
from families import FAMILIES
from PIL import Image, ImageChops
from readme_numbers import (
    about,
    counts_table,
    drift_text,
    findings_text,
    gains_table,
    items_table,
    lead_caption,
    long_numbers,
    long_text,
    scale_table,
    tries_text,
)

from helpers import ROOT
from helpers.can_it_speak import layers_above_chance
from helpers.catalogue import CATALOGUE
from helpers.fused import FROM_ROWS
from helpers.parameters import parse_settings, read_parameters
from helpers.reproduce import LEAD, NOTEBOOKS, ON_REQUEST, STUDY_DTYPES

README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def test_every_command_is_one_that_runme_takes():
    defaults = {name: read_parameters(name) for name in NOTEBOOKS + ON_REQUEST}
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    commands = [line for line in lines if line]
    assert len(commands) > 8
    for command in commands:
        words = command.split("  #")[0].split()
        if "pip" in words[:4]:
            assert (ROOT / words[-1]).is_file()
            continue
        assert words[0] == "./runme.sh"
        if words[1:2] in (["status"], ["clean"]):
            assert len(words) == 2
            continue
        words = [word for word in words if "://" not in word and word not in ("--workers", "--scheduler", "--new")]
        if words[1:2] == ["models"]:
            assert set(words[2:]) <= set(CATALOGUE)
        elif words[1:2] == ["app"]:
            assert {word for word in words if word.startswith("--")} <= {"--model", "--port", "--dtype"}
        elif words[1:2] not in (["test"], ["lab"]):
            somewhere = [word for word in words if word.startswith("adapter=")]  # of the reader's own
            parse_settings([word for word in words[1:] if "=" in word and word not in somewhere], defaults)
            assert {word for word in words if word.startswith("--")} <= {
                "--quick",
                "--model",
                "--only",
                "--all",
                "--study",
            }


def test_the_python_example_prints_what_the_page_shows():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(next(block for block in blocks("python") if "sweep(" in block), {})
    assert printed.getvalue() == blocks("text")[0]


def test_every_file_that_the_page_links_to_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.parametrize("table", [counts_table, gains_table, items_table])
def test_the_results_tables_are_what_data_says(table):
    for line in table():
        assert line in README, f"{line}\n(python tests/readme_numbers.py prints the tables)"


@pytest.mark.parametrize("text", [lead_caption, findings_text, tries_text, drift_text])
def test_what_the_page_says_of_results_is_what_data_says(text):
    assert text() in " ".join(README.split()), f"{text()}\n(python tests/readme_numbers.py prints the texts)"


def test_the_lead_model_is_the_one_with_the_clearest_effect():
    sizes = pd.read_csv(ROOT / "data/model_sizes/model_sizes.csv")
    amplified = sizes[
        (sizes["layer"] == "1-7") & (sizes["component"] == "mlp_output") & (sizes["method"] == "Superscopes")
    ]
    assert amplified.loc[amplified["effect"].idxmax(), "model"] == LEAD


def test_the_pictures_are_of_the_lead_model():
    assert f"data/{LEAD}/layer_success.png" in README and "](Superscopes.jpg)" in README
    with Image.open(ROOT / "data" / LEAD / "story_best.png") as story, Image.open(ROOT / "Superscopes.jpg") as picture:
        assert story.size == picture.size
        difference = ImageChops.difference(story.convert("RGB"), picture)
        assert np.asarray(difference).mean() < 3, "Superscopes.jpg is not the lead model's story_best.png"


def test_sizes_are_what_data_says():
    table = pd.read_csv(ROOT / "data/model_sizes/model_sizes.csv")
    assert set(table["model"]) == set(CATALOGUE)
    for model in STUDY_DTYPES:
        assert set(table.loc[table["model"] == model, "dtype"]) == {"bfloat16"}
    for sentence in about("model_sizes", "model_sizes")["verdict"]:
        assert sentence in " ".join(README.split()), sentence


def test_everything_in_data_fits_a_clone():
    files = [path for path in (ROOT / "data").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25 << 20
    assert all(path.stat().st_size <= 300 << 10 for path in files if path.suffix == ".png")


def test_what_check_said_of_each_model_is_what_data_says():
    for alias in CATALOGUE:
        about = json.loads((ROOT / "data" / alias / "can_it_speak.json").read_text())
        counts = pd.DataFrame(about["counts"])
        best, described = counts.loc[counts["interpreted"].idxmax()], sum(row["described"] for row in about["named"])
        line = (
            f"| {alias} | {described} | {about['by_chance']['mean']:.1f} (to {about['by_chance']['high']}) | "
            f"{layers_above_chance(counts)} of 0–{counts['layer'].max()} | {best['interpreted']}, layer {best['layer']} | "
            f"{best['null_mean']:.1f} (to {counts['null_high'].max()}) |"
        )
        assert line in README, line


def test_the_table_of_families_is_of_a_run_of_these_tests():
    status = (ROOT / "tests" / "STATUS.md").read_text()
    assert f"{len({kind for kind, _, _ in FAMILIES.values()})} of transformers' model types" in README.replace(
        "\n", " "
    )
    for name, (kind, _, _) in FAMILIES.items():
        assert f"| {name} | `{kind}` | {transformers.__version__} |" in status
    assert set(re.findall(r"^\| ([^|`]+) \| (?:passed|skipped|failed) \|", status, flags=re.M)) == set(SOURCES)


def test_the_papers_counts_are_the_reference_files():
    reference = pd.read_csv(ROOT / "data/reference/llama-2-13b-chat.csv")
    for method, rows in reference.groupby("method"):
        assert ", ".join(map(str, rows["interpreted"])) in README.replace("\n", " ")
        assert f"***{rows['interpreted'].sum()}** (" in README, method


def test_the_speed_is_what_was_measured():
    table = pd.read_csv(ROOT / "benchmarks/results/speed.csv").set_index(["way", "dtype"])

    def both(way: str, column: str, form: str) -> str:
        """The float32 and the bfloat16 number, as the sentence gives them."""
        return " and ".join(format(table.loc[(way, dtype), column], form) for dtype in ("float32", "bfloat16"))

    faster, speed = "engine is faster by", "rows per second"
    compiled = table.loc[("this engine", "bfloat16")]
    for words in (
        f"reads {table.loc[('this engine', 'float32'), speed]:.0f} vectors per second in float32 and {compiled[speed]:.0f} in",
        f"{both('plain, one by one', faster, '.0f')} times as many as the plain way",
        f"{both('nnsight', faster, '.1f')} times as many as nnsight's best batch",
        f"takes {both('this engine', 'times the matrix products', '.1f')} times the bare matrix products",
        f"reads {both('this engine, not compiled', speed, '.0f')} per second",
        f"{compiled['same texts as plain float32']} texts were the plain float32 way's",
        f"{table.loc[('batched generate', 'bfloat16'), 'same texts as plain float32']} were for transformers' own batches",
        f"fewer than {FROM_ROWS:,} rows",
    ):
        assert words in README.replace("\n", " "), words
    for way in ("this engine", "this engine, not compiled"):
        assert table.loc[(way, "float32"), "same texts as plain"] == "128 of 128"


def test_the_application_is_as_fast_as_was_measured():
    table = pd.read_csv(ROOT / "benchmarks/results/app.csv").set_index("what")
    first, whole = (table.loc[f"page, {which} readings"] for which in ("first", "all"))
    words = f"begin to appear after {first['seconds']:.1f} s and are there after {whole['seconds']:.1f} s"
    assert f"{words}, {whole['times the sweep']:.1f} times as long as a sweep" in " ".join(README.split())


def test_a_long_run_costs_what_was_measured():
    assert long_text() in " ".join(README.split()) and "\n".join(scale_table()) in README
    value = long_numbers()["value"]
    assert value["driver"] > 900 * value["1 worker"], "the driver is not the bottleneck"
    chunk = re.search(r"^CHUNK = (\d+)  # seconds", (ROOT / "helpers/cluster.py").read_text(), re.M)
    assert readme_numbers.CHUNK == int(chunk[1])


def test_the_proof_at_load_costs_what_was_measured():
    table = pd.read_csv(ROOT / "benchmarks/results/load.csv")
    seconds, share = table["proof, seconds"], table["proof, share of load"]
    words = f"takes {seconds.min():.2f} to {seconds.max():.1g} s on the models below, {share.min():.0%} to"
    assert words.replace("%", "") in README.replace("\n", " ") and f"{share.max():.0%}".replace("%", " %") in README


def test_a_longer_plan_costs_no_more_per_row():
    growth = pd.read_csv(ROOT / "benchmarks/results/growth.csv")
    assert growth["rows"].min() <= 256 and growth["rows"].max() >= 16384
    cost = growth["ms per row"]
    assert cost.iloc[-1] <= 1.1 * cost.iloc[0]
    assert (growth["peak MiB at the end"] <= 1.05 * growth["peak MiB after the first batch"]).all()
