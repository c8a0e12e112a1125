"""README.md and docs/: their numbers are those in data/, their commands exist, the example prints what it shows."""

import contextlib
import io
import re
import shlex

import numpy as np
import pandas as pd
import pytest
import transformers
from conftest import SOURCES
from families import FAMILIES
from PIL import Image, ImageChops
from typer.main import get_command

from helpers import ROOT, label
from helpers.cli import main
from helpers.cli.commands import cli, with_command
from helpers.cli.docs import pages, refresh
from helpers.cli.numbers import NUMBERS
from helpers.cli.reproduce import LEAD, STUDY_DTYPES, settle
from helpers.experiments import names
from helpers.experiments.model_sizes import AS_DEEP
from helpers.models.catalogue import CATALOGUE
from helpers.words.expressions import parse_all
from helpers.words.vectors import VectorSettings

README = (ROOT / "README.md").read_text()
TEXTS = {page: page.read_text() for page in pages()}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_numbers_are_what_data_says(page):
    assert refresh(TEXTS[page], page)[1] == [], "./runme.sh docs writes them"


def test_every_number_is_asked_for_and_its_text_is_not_repeated():
    asked = re.findall(r"<!-- numbers: (\w+) -->", "".join(TEXTS.values()))
    assert set(asked) == set(NUMBERS) and len(asked) == len(set(asked))


def test_docs_writes_what_is_out_of_date(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "page.md"
    page.write_text("<!-- numbers: items -->\n<!-- /numbers -->\nOf <!-- numbers: families -->0<!-- /numbers --> kinds.\n")
    monkeypatch.setattr("helpers.cli.docs.pages", lambda: [page])
    monkeypatch.setattr("helpers.cli.docs.ROOT", tmp_path)
    before = page.read_text()
    assert main(["docs", "--check"]) == 1 and page.read_text() == before
    assert "page.md: items" in capsys.readouterr().out
    assert main(["docs"]) == 0 and main(["docs", "--check"]) == 0
    families = len({kind for kind, _, _ in FAMILIES.values()})
    assert f"Of <!-- numbers: families -->{families}<!-- /numbers --> kinds." in page.read_text()
    assert "](../data/" in page.read_text() and "\n| in the paper |" in page.read_text()
    page.write_text("<!-- numbers: nothing --><!-- /numbers -->")
    assert main(["docs"]) == 2 and capsys.readouterr().err.startswith("numbers='nothing': ")


def is_file_or_expression(vectors: str) -> bool:
    for column in ("yes", "no"):  # of a file that a reader has
        vectors = vectors.replace(f'"data/pairs.csv", column="{column}"', '"data/prompts.csv"')
    return VectorSettings(vectors=vectors).is_file or bool(parse_all(vectors))


def test_every_command_is_one_that_runme_takes():
    group = get_command(cli)
    lines = [line for text in TEXTS.values() for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    assert len(lines) > 20
    for line in filter(None, lines):
        program, *words = shlex.split(line.split("  #")[0])
        if program != "./runme.sh":
            assert words[:3] == ["-m", "pip", "install"] and (ROOT / words[-1]).is_file(), line
            continue
        name, *arguments = with_command(words)
        command = group.commands[name]
        values = command.make_context(name, arguments, resilient_parsing=False).params
        settings = [word for word in arguments if "=" in word and not word.startswith(("adapter=", "--"))]
        if name == "reproduce":
            settle((values["only"],) if values["only"] else names("default", "paper"), settings)
        elif name == "check":
            settle(("can_it_speak",), settings)
        elif name == "read":
            assert is_file_or_expression(values["vectors"]), line
        elif name == "models":
            assert values["name"] in ("", *CATALOGUE)


def test_the_python_example_prints_what_the_page_shows():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(next(block for block in blocks(README, "python") if "load_model(" in block), {})
    assert printed.getvalue() == blocks(README, "text")[0]


def test_the_labels_on_the_front_page_are_what_the_command_says(lm):
    [line] = [line for line in README.splitlines() if line.startswith("./runme.sh label")]
    _, _, prompt, labels = shlex.split(line.split("  #")[0])
    rows = label(lm, prompt, labels, layers="2,5", amplifiers=1)
    words = " ".join(README.split())
    for layer, of in rows.groupby("layer"):
        best = of.loc[of["probability"].idxmax()]
        shown = [f"{best[name]:.2f}".removeprefix("0") for name in ("probability", "chance")]
        said = re.search(rf"a {best['label']} at layer {layer} \((?:probability )?(\S+), by chance (\S+)\)", words)
        assert said and list(said.groups()) == shown, (layer, best["label"], shown)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_every_file_that_a_page_links_to_is_there(page):
    for target in re.findall(r"\]\(([^)#]+)\)", TEXTS[page]):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_front_page_is_short():
    assert len(README.splitlines()) <= 150


def test_the_lead_model_is_the_one_with_the_clearest_effect():
    sizes = pd.read_csv(ROOT / "data/model_sizes/model_sizes.csv")
    sizes = sizes[sizes["judged by"] == "description"]
    amplified = sizes[(sizes["layer"] == AS_DEEP) & (sizes["component"] == "mlp_output") & (sizes["method"] == "Superscopes")]
    assert amplified.loc[amplified["effect"].idxmax(), "model"] == LEAD
    assert set(sizes["model"]) == set(CATALOGUE)
    for model in STUDY_DTYPES:
        assert set(sizes.loc[sizes["model"] == model, "dtype"]) == {"bfloat16"}


def test_the_pictures_are_of_the_lead_model():
    assert f"data/{LEAD}/layer_success.png" in README and "](Superscopes.jpg)" in README
    with Image.open(ROOT / "data" / LEAD / "story_best.png") as story, Image.open(ROOT / "Superscopes.jpg") as picture:
        assert story.size == picture.size
        difference = ImageChops.difference(story.convert("RGB"), picture)
        assert np.asarray(difference).mean() < 3, "Superscopes.jpg is not the lead model's story_best.png"


def test_everything_in_data_fits_a_clone():
    files = [path for path in (ROOT / "data").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 34 << 20
    assert all(path.stat().st_size <= 300 << 10 for path in files if path.suffix == ".png")


def test_the_table_of_families_is_of_a_run_of_these_tests():
    status = (ROOT / "tests" / "STATUS.md").read_text()
    for name, (kind, _, _) in FAMILIES.items():
        assert f"| {name} | `{kind}` | {transformers.__version__} |" in status
    assert set(re.findall(r"^\| ([^|`]+) \| (?:passed|skipped|failed) \|", status, flags=re.M)) == set(SOURCES)


def test_the_engine_is_right_and_fast_where_it_was_measured():
    table = pd.read_csv(ROOT / "benchmarks/results/speed.csv").set_index(["way", "dtype"])
    for way in ("this engine", "this engine, not compiled"):
        assert table.loc[(way, "float32"), "same texts as plain"] == "128 of 128"
    value = pd.read_csv(ROOT / "benchmarks/results/long.csv").set_index("what")["value"]
    assert value["driver"] > 900 * value["1 worker"], "the driver is the bottleneck"


def test_a_longer_plan_costs_no_more_per_row():
    growth = pd.read_csv(ROOT / "benchmarks/results/growth.csv")
    assert growth["rows"].min() <= 256 and growth["rows"].max() >= 16384
    cost = growth["ms per row"]
    assert cost.iloc[-1] <= 1.1 * cost.iloc[0]
    assert (growth["peak MiB at the end"] <= 1.05 * growth["peak MiB after the first batch"]).all()
