"""Each way of reading a vector beside chance: from stored readings and a lens to the figure."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import InputError, TargetPrompt
from helpers.engine.activations import capture
from helpers.engine.plain import in_plain_text, write_after
from helpers.experiments import beside
from helpers.judging.score import score
from helpers.lenses.jacobian import Lens
from helpers.lenses.logit import vocabulary
from helpers.runs import ledger
from helpers.runs.readings import Readings
from helpers.runs.results import save_results
from helpers.words.prompts import read_gold, read_prompts

pytestmark = pytest.mark.usefixtures("few_resamples")

PROMPTS, GOLD = read_prompts("data/prompts.csv", 8), read_gold("data/prompts.csv", 8)


@pytest.fixture
def stored(tmp_path, tiny_folder, monkeypatch):
    """A folder of results of the small model: the plain readings say the description in layer 1, the others soup."""
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")
    settings = beside.Settings.of({"model": str(tiny_folder), "out_dir": str(tmp_path), "bank": str(bank(tmp_path))})
    readings = Readings(settings, bar=None)
    for component in ("mlp_output", "hidden_state"):
        lines = [
            (prompt, layer, float(amplifier), f": {GOLD[prompt] if (layer, amplifier) == (1, 1) else 'a kind of soup'}, x", f"{prompt}{layer}{amplifier}")
            for prompt in PROMPTS for layer in (0, 1) for amplifier in (1, 2, 3)
        ]  # fmt: skip
        rows = pd.DataFrame(lines, columns=["source prompt", "layer", "amplification value", "result", "id"])
        rows = rows.assign(component=component, token="x", position=1, status="ok", message="", seed=pd.NA, rho=1.0)
        rows = score(rows.assign(**{"target layer": rows["layer"], "target prompt": "paper"}), gold=GOLD)
        rows.attrs = {"model": {"name": readings.card.slug, "fingerprint": "x"}}
        save_results(rows, tmp_path / f"{component}.csv")
    return readings


def bank(folder):
    """Texts for neighbours: each prompt's name and description, and one that has a prompt's name in it."""
    file = folder / "bank.txt"
    file.write_text("\n".join([*PROMPTS, *GOLD.values(), f"all about {PROMPTS[0]}"]))
    return file


def test_each_way_says_what_its_lens_or_text_says(stored):
    rows = beside.gather(stored)
    lm, texts = stored.lm, [*PROMPTS, *GOLD.values(), f"all about {PROMPTS[0]}"]
    assert set(rows["way"]) == set(beside.WAYS) - {beside.JACOBIAN} and rows.attrs["texts of the lens"] is None
    at = rows[(rows["component"] == "hidden_state") & (rows["layer"] == 1)].set_index(["way", "source prompt"])["says"]
    bank_vectors = torch.stack([capture(lm, text)["hidden_state"][1, -1] for text in texts]).float()
    mean = bank_vectors.double().mean(0).float()
    for prompt in PROMPTS:
        vector = capture(lm, prompt)["hidden_state"][1, 1].float()
        told = [token.strip() for token, _ in vocabulary(lm, vector[None], 5)[0]]
        assert at[beside.LOGIT, prompt] == " ".join(told)
        near = torch.cosine_similarity(bank_vectors - mean, (vector - mean)[None])
        allowed = [number for number, text in enumerate(texts) if prompt.lower() not in text.lower()]
        assert at[beside.NEAREST, prompt] == texts[max(allowed, key=lambda number: near[number])]
        assert at[beside.PLAIN, prompt] == f": {GOLD[prompt]}, x"
    without = write_after(lm, [*in_plain_text(lm, PROMPTS, TargetPrompt()), *PROMPTS], 10)
    for way, texts in ((beside.TEXT_ONLY, without[: len(PROMPTS)]), (beside.CONTINUATION, without[len(PROMPTS) :])):
        assert [at[way, prompt] for prompt in PROMPTS] == texts
        assert rows[rows["way"] == way].groupby(["source prompt"])["says"].nunique().eq(1).all()


def test_it_is_published_with_its_chance(stored, tmp_path):
    rows = beside.gather(stored)
    found = beside.tables(stored.settings, rows)
    of = found.table.set_index(["judged by", "component", "way", "layer"]).sort_index()
    plain = of.loc["words", "mlp_output", beside.PLAIN]
    assert plain.loc[1, "rate"] == 1 and plain.loc[0, "rate"] == 0 and plain.loc[beside.ALL, "rate"] == 0.5
    wanted = [set(map(str.lower, beside.content_words(GOLD[prompt]))) for prompt in PROMPTS]
    first = [set([word.lower() for word in beside.content_words(GOLD[prompt])][:5]) for prompt in PROMPTS]
    others = [
        np.mean([bool(own & theirs) for theirs, text in zip(wanted, GOLD.values(), strict=True) if text != GOLD[prompt]])
        for own, prompt in zip(first, PROMPTS, strict=True)
    ]
    assert plain.loc[1, "null"] == pytest.approx(np.mean(others), abs=1e-4)
    assert of.loc[("similarity", "mlp_output", beside.PLAIN, 1), "rate"] > 0.8
    drawn = beside.figure(stored.settings, found)
    assert len(drawn.axes) == 4 and "There is no Jacobian lens of this model" in beside.caption(stored.settings, found)
    beside.save(stored.settings, found, drawn, tmp_path)
    assert json.loads((tmp_path / "beside.json").read_text())["texts of the lens"] is None
    assert len(pd.read_csv(tmp_path / "beside.csv")) == len(found.table)


def test_the_jacobian_lens_is_read_where_there_is_one(stored, monkeypatch, tmp_path):
    """A lens that is the identity says what the logit lens says."""
    lm = stored.lm
    identity = Lens({layer: torch.eye(lm.width) for layer in range(lm.num_layers - 1)}, 3, {})
    monkeypatch.setattr("helpers.lenses.jacobian.load_lens", lambda *_: identity)
    settings = stored.settings.model_copy(update={"lens": "there.pt"})
    rows = beside.gather(Readings(settings, stored.session, bar=None))
    one, other = (rows[rows["way"] == way].reset_index(drop=True) for way in (beside.LOGIT, beside.JACOBIAN))
    pd.testing.assert_frame_equal(one.drop(columns="way"), other.drop(columns="way"))
    assert "a mean over 3 texts" in beside.caption(settings, beside.tables(settings, rows))


def test_readings_of_another_model_and_a_missing_lens_are_refused(stored):
    with pytest.raises(InputError, match="no such file; ./runme.sh lens fit"):
        beside.gather(Readings(stored.settings.model_copy(update={"lens": "nowhere.pt"}), stored.session, bar=None))
    asked_otherwise = stored.settings.model_copy(update={"target_prompt": "What is {x}"})
    with pytest.raises(InputError, match="target_prompt='What is {x}': the readings are of paper"):
        beside.gather(Readings(asked_otherwise, stored.session, bar=None))
    for file in stored.folder.glob("*_*.json"):
        about = json.loads(file.read_text())
        about["model"]["name"] = "another"
        file.write_text(json.dumps(about))
    with pytest.raises(InputError, match="readings of another model"):
        beside.gather(stored)


def test_readings_of_several_tokens_are_refused(stored):
    file = stored.folder / "mlp_output.csv"
    rows = pd.read_csv(file)
    rows.loc[rows["layer"] == 0, "position"] = 0
    rows.to_csv(file, index=False)
    with pytest.raises(InputError, match="expected readings of one token of each prompt"):
        beside.gather(stored)
