"""Readings that others have published, in the paper's five columns: as many tables as they allow, and no model."""

from functools import partial

import pandas as pd
import pytest

from helpers.experiments import amplification_or_tries as tries
from helpers.experiments import layer_success_plots as success
from helpers.judging.effects import judge_rows
from helpers.judging.judge import Judge
from helpers.words.components import MLP_GRID
from helpers.words.prompts import read_gold
from helpers.words.target import TARGET_PROMPTS

pytestmark = pytest.mark.usefixtures("few_resamples")

PROMPTS = {
    "Pink Floyd": ": English rock band, The Beatles", "Titanic": ": British passenger ship that sank, Concorde",
    "Star Wars": ": American space opera films, Alien", "George Washington": ": First president of the United States",
}  # fmt: skip


@pytest.fixture
def published(tmp_path):
    """The amplified readings at α = 6 fit their descriptions, no others do; a grid point stands twice."""
    rows = [
        (prompt, "x", layer, amplifier, text if amplifier == 6 else ": a kind of soup")
        for prompt, text in PROMPTS.items()
        for layer in (1, 2)
        for amplifier in (1, 3, 6, 9, 12, 15)
    ]
    columns = ["source prompt", "token", "layer", "amplification value", "result"]
    table = pd.DataFrame([*rows, (*rows[2][:4], ": another text")], columns=columns)
    plain = table["amplification value"] == 1
    table[plain].to_csv(tmp_path / "plain.csv", index=False)
    table[~plain].to_csv(tmp_path / "amplified.csv", index=False)
    return [str(tmp_path / name) for name in ("plain.csv", "amplified.csv")]


def test_one_amplified_try_beside_one_plain(published, tmp_path):
    settings = tries.Settings.of({"results": published, "model": "theirs-13b", "out_dir": str(tmp_path)})
    assert tries.is_published(settings) and tries.plans(settings) == []
    rows = tries.read(settings)
    assert len(rows) == 4 * 2 * 6, "of a grid point that stands twice, the first"
    found = tries.tables(settings, rows)
    assert found.model == "theirs-13b" and found.rules == ["description", "prompt"]
    single = found.single[found.single["judged by"] == "description"].set_index("amplifier")
    assert single.loc[6, "rate"] == 1 and single.loc[1, "rate"] == 0 and set(found.several["way"]) == {"amplifiers"}
    gains = found.gains["description"]["mlp_output"]
    assert gains["amplifier"] == 6 and gains["alone"]["gain"] == gains["total"]["gain"] > 0.9 and "beyond" not in gains
    said = tries.sentences(settings, found)[0]
    assert "α = 6 100.0 %" in said and "points more" in said
    tries.save(settings, found, tries.figure(settings, found), tmp_path)
    assert (tmp_path / "amplification_or_tries.png").is_file()


def test_ours_are_not_taken_for_published(published, tmp_path):
    for file in published:
        (tmp_path / file.replace(".csv", ".json")).write_text("{}")
    assert not tries.is_published(tries.Settings.of({"results": published}))
    assert not tries.is_published(tries.Settings())


def test_the_figure_counts_them_under_both_rules(published, tmp_path):
    settings = success.Settings.of({"results": published, "out_dir": str(tmp_path)})
    found = success.tables(settings, success.read(settings))
    overall = found.overall.set_index(["judged by", "method"])
    assert overall.loc[("description", "Superscopes"), "interpreted"] == 8 and found.rules == ["description", "prompt"]
    assert overall.loc[("description", "Patchscopes"), "interpreted"] == 0
    assert "by chance" in success.sentences(settings, found)[0]
    assert len(success.figure(settings, found).axes) == 2


def test_only_a_rival_with_as_many_tries_is_compared():
    """Two samples that succeed always don't stand for five readings; four other target prompts and the paper's do."""
    lines = [
        (prompt, 1, float(amplifier), soup if amplifier < 9 else text, "mlp_output", "paper", None)
        for prompt, text in PROMPTS.items()
        for soup in [": a kind of soup"]
        for amplifier in MLP_GRID
    ]
    columns = ["source prompt", "layer", "amplification value", "result", "component", "target prompt", "seed"]
    evaluated = pd.DataFrame(lines, columns=columns).assign(status="ok")
    plain = evaluated[evaluated["amplification value"] == 1]
    rows = pd.concat([
        *(plain.assign(**{"target prompt": prompt.name}) for prompt in TARGET_PROMPTS[1:]),
        *(plain.assign(seed=seed, result=plain["source prompt"].map(PROMPTS)) for seed in range(2)),
        evaluated.assign(component="random[mlp_output]", result=": a kind of soup"),
    ], ignore_index=True)  # fmt: skip
    judged = partial(judge_rows, judge=Judge(), by_gold=read_gold("data/prompts.csv"))
    *_, gains = tries._compared("mlp_output", evaluated, rows, judged)
    assert gains["tries"] == 5 and gains["rival"] == "target prompts" and gains["beyond"]["gain"] > 0.5
