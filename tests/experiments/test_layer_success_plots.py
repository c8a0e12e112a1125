"""The default figure: one reading of each vector, chosen blind, beside a plain one; the paper's choice by a parameter."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from helpers import InputError
from helpers.experiments import layer_success_plots as success
from helpers.judging.confidence import FILE, Confidence, Fitted
from helpers.judging.evidence import EVIDENCE
from helpers.judging.judge import Judge
from helpers.runs.evidence import FILE as EVIDENCE_FILE
from helpers.runs.results import save_results
from helpers.words.prompts import read_gold, read_prompts

pytestmark = pytest.mark.usefixtures("few_resamples")

PROMPTS = read_prompts("data/prompts.csv", 16)
GOLD = read_gold("data/prompts.csv", 16)
AMPLIFIERS = (1, 3, 6, 9)


def readings(right) -> pd.DataFrame:
    """Return readings of 16 prompts in layers 1 and 2: the description where `right` says so, else soup."""
    rows = [
        (prompt, "x", layer, float(amplifier), f": {GOLD[prompt]}, x" if right(number, amplifier) else ": a kind of soup")
        for number, prompt in enumerate(PROMPTS)
        for layer in (1, 2)
        for amplifier in AMPLIFIERS
    ]
    rows = pd.DataFrame(rows, columns=["source prompt", "token", "layer", "amplification value", "result"])
    columns = {"component": "mlp_output", "position": 0, "target prompt": "paper", "seed": pd.NA, "status": "ok"}
    rows = rows.assign(**columns, **{"target layer": rows["layer"], "id": [f"row {number}" for number in range(len(rows))]})
    rows.attrs = {"model": {"name": "ours", "fingerprint": "0"}}
    return rows


BY_TURNS = readings(lambda number, amplifier: amplifier == (3, 6)[number % 2])


def found_of(folder, rows, **given):
    save_results(rows, folder / "mlp_output.csv")
    settings = success.Settings.of({"model": "nowhere-1b", "out_dir": str(folder), **given})
    return settings, success.tables(settings, success.read(settings))


def of(found, method, rule="description"):
    [row] = found.overall[(found.overall["method"] == method) & (found.overall["judged by"] == rule)].to_dict("records")
    return row


def fitted_beside(folder, rows, known=1.0) -> np.ndarray:
    """Write evidence of a share of the rows, and a confidence that believes in a high PMI; return the PMIs."""
    pmi = np.random.default_rng(1).permutation(len(rows)).astype(float)
    table = pd.DataFrame({"id": rows["id"]} | dict.fromkeys(EVIDENCE, 0.0)).assign(pmi=pmi)
    save_results(table[: int(known * len(rows))], folder / EVIDENCE_FILE)
    regression = Fitted([0.0] * 4, [1.0] * 4, [0.0, 0.0, 0.01, 0.0], [0.0] * 4, -0.5)
    Confidence({"name": "ours"}, {"mlp_output into same": regression}, {"evidence": list(EVIDENCE)}).save(folder / FILE)
    return pmi


def test_the_default_figure_counts_one_reading_chosen_blind_with_one_try(tmp_path):
    """The right α is 3 or 6, by turns; agreement finds it. Chance: the very readings that were chosen, judged by others."""
    settings, found = found_of(tmp_path, BY_TURNS)
    assert settings.choice == "blind" and found.criteria == {"mlp_output": "agreement_contrast"}
    blind, per_layer = of(found, "Chosen blind"), found.per_layer[found.per_layer["method"] == "Chosen blind"]
    assert blind["interpreted"] == blind["pairs"] == 32 and (per_layer["tries"] == 1).all()
    by_description = per_layer[per_layer["judged by"] == "description"]
    wilson = binomtest(16, 16).proportion_ci(method="wilson")
    assert by_description["low"].tolist() == [round(16 * wilson.low, 2)] * 2 and (by_description["high"] == 16).all()
    cosines = Judge().embedded([f": {GOLD[prompt]}, x" for prompt in PROMPTS]) @ Judge().embedded([*GOLD.values()]).T
    others = np.array([*GOLD.values()])[:, None] != np.array([*GOLD.values()])
    by_chance = [(cosines[row] > 0.3)[others[row]].mean() for row in range(16)]
    assert blind["null_mean"] == pytest.approx(2 * sum(by_chance), abs=0.01)
    [said, _] = success.sentences(settings, found)
    assert "Chosen blind (one reading) 32, by chance" in said and "Superscopes" not in said
    caption = success.caption(settings, found)
    assert "chosen without the prompt: the one that agrees most" in caption and "(agreement_contrast)" in caption
    labels = [text for axes in success.figure(settings, found).axes for text in axes.get_legend_handles_labels()[1]]
    assert "Superscopes (one reading, chosen blind)" in labels and "Chosen blind, Llama-2-13b-chat (paper), scaled" in labels
    assert "Superscopes (best of the amplified)" not in labels


def test_the_papers_choice_is_one_parameter_away_and_counts_as_before(tmp_path):
    settings, found = found_of(tmp_path, BY_TURNS, choice="similarity")
    best = of(found, "Superscopes")
    assert best["interpreted"] == 32 and set(found.per_layer.loc[found.per_layer["method"] == "Superscopes", "tries"]) == {3}
    assert "Superscopes (best of 3) 32" in success.sentences(settings, found)[0]
    assert "chosen by similarity to the prompt" in success.caption(settings, found)
    drawn = success.figure(settings, found)
    labels = [text for axes in drawn.axes for text in axes.get_legend_handles_labels()[1]]
    assert "Superscopes, Llama-2-13b-chat (paper), scaled" in labels and not any("blind" in label for label in labels)
    success.save(settings, found, drawn, tmp_path)
    blind, other = found_of(tmp_path, BY_TURNS)
    success.save(blind, other, success.figure(blind, other), tmp_path)
    assert (tmp_path / "layer_success_similarity.png").is_file() and (tmp_path / "layer_success.png").is_file()
    kept = pd.read_csv(tmp_path / "layer_success.csv")
    assert list(kept["method"].unique()) == ["Patchscopes", "Superscopes", "Chosen blind"], "both, whatever is drawn"
    with pytest.raises(InputError, match="choice='best': expected one of blind, similarity"):
        success.Settings.of({"choice": "best"})


def test_where_a_confidence_was_fitted_the_most_likely_reading_counts(tmp_path):
    rows = BY_TURNS
    pmi = fitted_beside(tmp_path, rows)
    settings, found = found_of(tmp_path, rows)
    likeliest = pd.Series(pmi).groupby([rows["source prompt"], rows["layer"]]).idxmax()
    assert of(found, "Chosen blind")["interpreted"] == (~rows.loc[likeliest, "result"].str.contains("soup")).sum()
    assert found.criteria == {"mlp_output": "confidence"} and "(confidence)" in success.caption(settings, found)


def test_a_confidence_of_some_readings_alone_is_not_used(tmp_path):
    fitted_beside(tmp_path, BY_TURNS, known=0.5)
    assert found_of(tmp_path, BY_TURNS)[1].criteria == {"mlp_output": "agreement_contrast"}


def test_a_confidence_that_was_fitted_before_serves_a_new_run(tmp_path, monkeypatch):
    """A run collects its results elsewhere before it publishes them; the fit stands with what is published."""
    (tmp_path / "published").mkdir(), (tmp_path / "new").mkdir()
    fitted_beside(tmp_path / "published", BY_TURNS)
    monkeypatch.setattr(
        "helpers.experiments._evaluated.results_folder",
        lambda model, out_dir="", **_: tmp_path / ("new" if out_dir else "published"),
    )
    assert found_of(tmp_path / "new", BY_TURNS)[1].criteria == {"mlp_output": "confidence"}


def test_the_choice_sees_no_prompt_and_no_score(tmp_path):
    """With names for prompts, and other scores, the same readings are chosen."""
    names = dict(zip(PROMPTS, (f"prompt {number}" for number in range(16)), strict=True))
    other = BY_TURNS.assign(score=0.9, **{"score gold": -0.5})
    marked = [
        success.chosen_blind(rows, Judge())[0]["chosen blind"].tolist()
        for rows in (BY_TURNS, other, BY_TURNS.assign(**{"source prompt": BY_TURNS["source prompt"].map(names)}))
    ]
    assert marked[0] == marked[1] == marked[2] and sum(marked[0]) == 32


def test_with_one_reading_of_each_vector_it_is_the_one(tmp_path):
    rows = BY_TURNS[(BY_TURNS["layer"] == 1) & (BY_TURNS["amplification value"] == 3)]
    settings, found = found_of(tmp_path, rows)
    assert found.criteria == {"mlp_output": ""} and of(found, "Chosen blind")["interpreted"] == 8
    assert "the only one" in success.caption(settings, found) and success.figure(settings, found)
