"""Ways to amplify beside each other: readings whose best way and setting are known."""

import re

import pandas as pd
import pytest

from helpers import InputError
from helpers.experiments import ways_to_amplify as ways
from helpers.runs.sweep import rows_of
from helpers.words.decoding import Contrast
from helpers.words.prompts import read_gold, read_prompts
from helpers.words.rows import Reading

pytestmark = pytest.mark.usefixtures("few_resamples")

GOLD = read_gold("data/prompts.csv")
SETTINGS = ways.Settings.of({"layers": "2,5"})


def readings(card, right, settings=SETTINGS) -> pd.DataFrame:
    """Return rows in the plans' order: the description where right(component, α, λ) says so, else soup."""
    tables = []
    for plan in ways.plans(settings):
        items, weight = plan.items(card), plan.decoding.weight if plan.decoding else None
        texts = [
            f": {GOLD[item.source_prompt]}, x" if right(item.component, item.amplifier, weight) else ": a kind of soup"
            for item in items
        ]
        tables.append(rows_of(items, [Reading(text) for text in texts]))
    rows = pd.concat(tables, ignore_index=True)
    rows.attrs["model"] = {"name": "m"}
    return rows


def test_it_asks_for_each_way_with_each_of_its_settings(card):
    plans = ways.plans(ways.Settings())
    assert sum(len(plan.items(card)) for plan in plans) == 48 * 4 * (6 + 6 + 7 + 7 + 6 + 6 + 6 + 6 + 7 + 7 + 6) <= 14_000
    assert {plan.components for plan in plans if plan.references} == {("centred[mlp_output]",), ("centred[hidden_state]",)}
    assert [plan.decoding for plan in plans if plan.decoding] == 2 * [Contrast(0.5), Contrast(1), Contrast(2)]
    others = ways.plans(ways.Settings.of({"references": "data/entities.csv"}))
    assert {plan.references for plan in others} == {(), tuple(read_prompts("data/entities.csv"))}


def test_the_way_and_the_setting_that_say_most_are_found(card):
    def right(component, amplifier, weight):
        if component == "mlp_output":
            return weight == 2 and amplifier == 3  # of contrast alone
        return component == "norm[hidden_state]" and amplifier == 1.5

    found = ways.tables(SETTINGS, readings(card, right))
    assert (found.prompts, found.layers, found.rules[0]) == (48, "2, 5", "description")
    of = found.table[found.table["judged by"] == "description"].set_index(["component", "way", "choice"]).sort_index()
    for component, way, setting in (
        ("mlp_output", "contrast", "α = 3, λ = 2"), ("hidden_state", "norm", "ρ = 1.5")
    ):  # fmt: skip
        best = of.loc[component, way]
        assert best.loc[ways.FIXED, "setting"] == setting and (best["rate"] == 1).all(), "also the one chosen blind"
        assert list(best["tries"].loc[[ways.FIXED, ways.BLIND]]) == [1, 1] and found.blind == "agreement_contrast"
        assert (of.loc[component].drop(index=way)["rate"] == 0).all()
    assert of.loc[("mlp_output", "plain", ways.BEST), "tries"] == 6 and of.loc[("mlp_output", "norm", ways.BEST), "tries"] == 7
    assert {way for _, way, _ in of.index} == {"plain", "guidance", *ways.COMPOSED, "contrast", "Patchscopes"}
    assert ("hidden_state", "guidance", ways.FIXED) not in of.index
    gains = found.gains.set_index(["judged by", "component", "way", "choice"]).loc["description"]
    effect = of.loc[("mlp_output", "contrast", ways.FIXED), "effect"]
    assert gains.loc[("mlp_output", "contrast", ways.FIXED), "gain"] == pytest.approx(effect, abs=1e-3)
    assert gains.loc[("mlp_output", "norm", ways.FIXED), "gain"] == 0


def test_where_no_reading_can_be_chosen_blind_the_others_stand(card):
    """A single layer agrees with no other, and there is no other amplifier in the way of a single setting."""
    alone = SETTINGS.model_copy(update={"layers": "2", "num_prompts": 6})
    rows = readings(card, lambda component, amplifier, weight: component == "norm[mlp_output]", alone)
    found = ways.tables(alone, rows)
    assert found.blind == "agreement_amplifiers" and ways.BLIND in set(found.table["choice"])


def test_it_is_published_with_what_it_says(card, tmp_path):
    found = ways.tables(SETTINGS, readings(card, lambda component, amplifier, weight: component == "norm[mlp_output]"))
    said = ways.sentences(SETTINGS, found)
    assert len(said) == 4 and said[0].startswith("MLP outputs, by the description: one setting for all")
    assert re.search(r"most has norm \(mostly ρ = .*Certainly more than plain: norm; certainly less: none\.", said[0])
    assert "Guidance, which adds h_PreMLP (mostly w = " in said[0] and "Guidance" not in said[1]
    assert re.search(r"chosen blind \(agreement_contrast\): plain −?0.0 % .*; most norm, ", said[0])
    assert "most norm (best of 7)" in said[0] and "more than the others" in said[1]
    drawn = ways.figure(SETTINGS, found)
    assert len(drawn.axes) == 2 * len(found.rules) == 4
    assert ways.caption(SETTINGS, found).startswith("m, 48 prompts, source layers 2, 5; MLP outputs into the same layer")
    ways.save(SETTINGS, found, drawn, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "ways_to_amplify.png", "ways_to_amplify.pdf", "ways_to_amplify_found.csv", "ways_to_amplify_found.json"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weights": [-1]}, "weight=-1"),
        ({"weights": []}, "weights="),
        ({"references": "nowhere.csv"}, "references='nowhere.csv': no such file"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_read(given, words):
    with pytest.raises(InputError, match=words):
        ways.plans(ways.Settings.of(given))


def test_few_references_are_refused(tmp_path):
    file = tmp_path / "few.csv"
    file.write_text("prompt\n" + "\n".join(f"Prompt {letter}" for letter in "abcdefghi"))
    with pytest.raises(InputError, match="references=9: expected at least 10"):
        ways.plans(ways.Settings.of({"references": str(file)}))
