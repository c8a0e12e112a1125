"""One reading chosen blind beside the best of all: numbers that can be told by hand."""

import pandas as pd
import pytest

from helpers.experiments import which_amplifier as which
from helpers.judging.criteria import CRITERIA
from helpers.runs.results import save_results
from helpers.words.prompts import read_gold, read_prompts

pytestmark = pytest.mark.usefixtures("few_resamples")

PROMPTS = read_prompts("data/prompts.csv", 16)
GOLD = read_gold("data/prompts.csv", 16)


def readings(right) -> pd.DataFrame:
    """Return readings of 16 prompts in layers 1 and 2: the description where `right` says so, else soup."""
    rows = [
        (prompt, "x", layer, amplifier, f": {GOLD[prompt]}, x" if right(number, layer, amplifier) else ": a kind of soup")
        for number, prompt in enumerate(PROMPTS)
        for layer in (1, 2)
        for amplifier in (1, 3, 6, 9)
    ]
    return pd.DataFrame(rows, columns=["source prompt", "token", "layer", "amplification value", "result"])


@pytest.fixture
def settings(tmp_path):
    def of(rows):
        rows.to_csv(tmp_path / "theirs.csv", index=False)
        given = {"model": "theirs-13b", "results": [str(tmp_path / "theirs.csv")], "out_dir": str(tmp_path)}
        return which.Settings.of(given)

    return of


def found_of(settings):
    return which.tables(settings, which.read(settings))


def test_the_amplifier_is_found_where_it_differs_from_prompt_to_prompt(settings):
    """The right α is 3 or 6, by turns: no fixed α reads them all, the blind choice does, and so does the best."""
    given = settings(readings(lambda number, layer, amplifier: amplifier == (3, 6)[number % 2]))
    found = found_of(given)
    of = found.table[found.table["judged by"] == "description"].set_index("choice")
    assert of.loc["agreement_contrast", "rate"] == of.loc[which.BEST, "rate"] == 1
    assert of.loc[which.FIXED, "rate"] < 0.6 and of.loc["Patchscopes", "rate"] == 0
    told = [name for name in which.CHOICES if not (name in CRITERIA and CRITERIA[name].needs)]
    assert (of["tries"] == [1, 1, 1, 1, 1, 4]).all() and list(of.index) == told
    assert of.loc["agreement_amplifiers", "rate"] < 1, "soup agrees with soup"
    kept = found.kept.set_index("judged by")
    assert (kept["gain"].abs() < 0.01).all() and kept.loc["prompt", "share"] == pytest.approx(1, abs=0.01)
    assert pd.isna(kept.loc["description", "share"]), "bands' descriptions fit each other: the best may be chance"
    assert found.blind == "agreement_contrast" and found.sets == {"prompts": (16, "1–2")}


def test_it_is_published_with_what_it_says(settings, tmp_path):
    given = settings(readings(lambda number, layer, amplifier: amplifier == 3))
    found = found_of(given)
    assert "one reading chosen blind (agreement_contrast) succeeds" in which.sentences(given, found)[0]
    assert "which sees the answer" in which.sentences(given, found)[0]
    drawn = which.figure(given, found)
    assert len(drawn.axes) == len(found.rules) == 2 and "theirs-13b. 16 prompts" in which.caption(given, found)
    which.save(given, found, drawn, tmp_path)
    assert all((tmp_path / f"which_amplifier.{end}").is_file() for end in ("png", "pdf", "csv", "json"))


def test_with_few_tokens_the_contrast_is_left_out_and_with_one_layer_agreement_over_layers(settings):
    rows = readings(lambda number, layer, amplifier: amplifier == 3)
    few = found_of(settings(rows[rows["source prompt"].isin(PROMPTS[:6])]))
    assert few.blind == "agreement" and "agreement_contrast" not in set(few.table["choice"])
    one = found_of(settings(rows[rows["layer"] == 1]))
    assert one.blind == "agreement_amplifiers"
    plain = settings(rows[(rows["layer"] == 1) & (rows["amplification value"] == 3)].assign(**{"amplification value": 1}))
    found = found_of(plain)
    assert found.blind == "" and "No reading can be chosen blind" in which.sentences(plain, found)[-1]
    assert which.figure(plain, found)


def test_other_entities_are_judged_where_their_readings_are(tmp_path):
    rows = readings(lambda number, layer, amplifier: amplifier == 3)
    columns = {"component": "mlp_output", "position": 0, "target layer": 1, "target prompt": "paper", "seed": pd.NA, "status": "ok"}
    rows = rows.assign(**columns)
    rows.attrs = {"model": {"name": "ours", "fingerprint": "0"}}
    save_results(rows, tmp_path / "mlp_output.csv")
    names = list(read_gold("data/entities.csv"))[: len(PROMPTS)]
    others = rows.assign(**{"source prompt": rows["source prompt"].map(dict(zip(PROMPTS, names, strict=True)))})
    others.attrs = rows.attrs
    save_results(others, tmp_path / "elsewhere.csv.gz")
    found = found_of(which.Settings.of({"out_dir": str(tmp_path)}))
    assert set(found.sets) == {"prompts", "entities"} and found.model == "ours"
    assert len(found.kept) == 2 * len(found.rules)
