"""Evidence is gathered once, kept beside the readings, and survives a stop."""

import numpy as np
import pandas as pd
import pytest
from tables import QuickJudge, make_readings

from helpers import ROOT, InputError
from helpers.judging.confidence import BELIEVED, Confidence
from helpers.judging.evidence import EVIDENCE, Witness
from helpers.judging.more_evidence import MORE_EVIDENCE, MoreWitness
from helpers.runs import evidence, ledger
from helpers.runs.evidence import FILE, believe, evidence_for, with_evidence
from helpers.runs.session import Session
from helpers.runs.sweep import sweep
from helpers.words.decoding import Contrast, Sampling
from helpers.words.plans import make_plan
from helpers.words.prompts import read_prompts
from helpers.words.settings import ModelSettings

GIVEN = read_prompts("data/prompts.csv")
REFERENCES = [f"Reference number {number}" for number in range(12)]
PLAN = make_plan(["Titanic", "King Kong", "Star Wars"], layers=[1, 2], amplifiers=[1, 3], max_new_tokens=4)


@pytest.fixture
def make(tmp_path, monkeypatch, tiny_folder):
    """Make readings of the small model, each as in a new process."""
    monkeypatch.setattr(ledger, "WORK", tmp_path / "work")

    def readings(out_dir="a", **settings):
        session = Session(ModelSettings.of({"model": str(tiny_folder)}), QuickJudge())
        return make_readings(tiny_folder, tmp_path / out_dir, None, session, **settings)

    return readings


@pytest.fixture
def rows(make):
    return make().of("mlp_output.csv", [PLAN])


def test_evidence_is_gathered_once(make, rows, monkeypatch):
    first = evidence_for(make(), rows, REFERENCES, bar=None)
    assert list(first) == ["id", *EVIDENCE] and first["id"].tolist() == rows["id"].tolist()
    whole = (make().folder / FILE).read_bytes()
    monkeypatch.setattr(Witness, "of", lambda *_: pytest.fail("it is there"))
    again = evidence_for(make(), rows, REFERENCES, bar=None)
    assert again.equals(first) and (make().folder / FILE).read_bytes() == whole
    elsewhere = evidence_for(make("b", reuse=str(make().folder)), rows, REFERENCES, bar=None)
    assert elsewhere.equals(first), "it is taken from there"
    beside = with_evidence(rows, make().folder)
    assert beside[list(EVIDENCE)].equals(first[list(EVIDENCE)])


def test_a_stop_loses_nothing(make, rows, monkeypatch):
    whole = evidence_for(make("whole"), rows, REFERENCES, bar=None)
    few, usual, asked = evidence.USUAL._replace(at_a_time=4), Witness.of, []

    def dies(witness, part):
        asked.append(len(part))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return usual(witness, part)

    monkeypatch.setattr(Witness, "of", dies)
    with pytest.raises(KeyboardInterrupt):
        evidence_for(make(), rows, REFERENCES, None, few)
    found = evidence_for(make(), rows, REFERENCES, None, few)
    assert asked == [4, 4, 4, 4], "of three parts, two were kept"
    pd.testing.assert_frame_equal(found, whole, atol=2e-3)
    assert not list((make().folder.parent / "work").rglob("evidence.jsonl")), "it is in the results now"


def test_other_references_or_a_torn_line_are_gathered_anew(make, rows):
    first = evidence_for(make(), rows, REFERENCES, bar=None)
    other = evidence_for(make(), rows, REFERENCES[::-1][:11], bar=None)
    assert not other["round_trip"].equals(first["round_trip"]) and other["entropy"].equals(first["entropy"])
    work = ledger.run_folder(make("c").folder) / "evidence.jsonl"
    work.parent.mkdir(parents=True, exist_ok=True)
    work.write_text('{"head": {')
    assert evidence_for(make("c"), rows, REFERENCES, bar=None).equals(first)
    with pytest.raises(InputError, match="references=3"):
        evidence_for(make("d"), rows, REFERENCES[:3], bar=None)


def test_one_reading_per_vector_is_believed_or_not(lm):
    """SmolLM2's own fit is in data/; of what is put into layer 0, that of hidden states alone."""
    prompts, components = ["Isaac Newton", "Titanic"], ["hidden_state", "attention_output"]
    rows = sweep(lm, prompts, components, 5, [1, 2], target_layer=0)
    best = believe(lm, rows)
    assert len(best) == 2 * 2 and not best.duplicated(["source prompt", "component", "layer"]).any()
    hidden = best["component"] == "hidden_state"
    assert set(best.loc[~hidden, "verdict"]) == {"uncalibrated"} and best.loc[~hidden, "confidence"].isna().all()
    assert set(best.loc[hidden, "verdict"]) <= {"believed", "no reading to believe"}
    assert ((best["verdict"] == "believed") == (best["confidence"] >= BELIEVED)).all()
    whole = Confidence.load(ROOT / "data" / lm.slug / "confidence.json").of(rows.assign(**Witness(lm, GIVEN).of(rows)))
    assert (best.loc[hidden, "confidence"] == whole.groupby(rows["source prompt"] + rows["layer"].astype(str)).max().tolist()).all()


@pytest.mark.parametrize(
    "other", [{"decoding": Sampling()}, {"decoding": Contrast(1.0)}, {"target_component": "mlp_output"}], ids=["sampled", "contrast", "inside"]
)
def test_what_was_read_otherwise_than_what_was_fitted_is_uncalibrated(lm, other):
    rows = sweep(lm, ["Titanic"], "hidden_state", 5, [1, 2], target_layer=0, max_new_tokens=6, **other)
    [best] = believe(lm, rows).to_dict("records")
    assert best["verdict"] == "uncalibrated" and np.isnan(best["confidence"]) and best["mean_rank"] > 0


def test_another_model_s_fit_is_not_used(tiny, tmp_path, monkeypatch):
    """Of the small model of random weights nothing is known, even under the name of one that was fitted."""
    rows = sweep(tiny, ["Titanic", "King Kong"], "hidden_state", [1, 2], [1, 3], target_layer=0, max_new_tokens=4)
    best = believe(tiny, rows, REFERENCES)
    assert set(best["verdict"]) == {"uncalibrated"} and len(best) == 4
    scores = rows.assign(score=0.9, **{"score gold": 0.1})
    assert believe(tiny, scores, REFERENCES).index.equals(best.index), "no score is seen"
    monkeypatch.setattr("helpers.runs.evidence.results_folder", lambda _: ROOT / "data" / "smollm2-135m")
    assert believe(tiny, rows, REFERENCES).equals(best)
    with pytest.raises(InputError, match="references=2"):
        believe(tiny, rows, REFERENCES[:2])
    rows.attrs = rows.attrs | {"model": rows.attrs["model"] | {"name": "larger", "fingerprint": "4567"}}
    with pytest.raises(InputError, match="rows='larger': readings of another model than"):
        believe(tiny, rows, REFERENCES)


def test_rows_without_evidence_have_none(make, rows, tmp_path):
    assert with_evidence(rows, tmp_path)[list(EVIDENCE)].isna().all(axis=None)
    assert with_evidence(rows.drop(columns="id"), make().folder)[list(EVIDENCE)].isna().all(axis=None)
    evidence_for(make(), rows[:4], REFERENCES, bar=None)
    beside = with_evidence(rows, make().folder)
    assert beside["pmi"][:4].notna().all() and beside["pmi"][4:].isna().all() and len(beside) == len(rows)


def test_what_costs_more_grows_in_a_file_of_its_own(make, rows, monkeypatch):
    """Layer by layer: what was gathered before stays, in the same bytes as if all had been gathered at once."""
    usual = evidence_for(make(), rows, REFERENCES, bar=None)
    before = (make().folder / FILE).read_bytes()
    first = evidence_for(make(), rows[rows["layer"] == 1], REFERENCES, None, evidence.MORE)
    assert list(first) == ["id", *MORE_EVIDENCE] and len(first) == 6
    asked, of = [], MoreWitness.of
    monkeypatch.setattr(MoreWitness, "of", lambda self, part: asked.append(len(part)) or of(self, part))
    second = evidence_for(make(), rows[rows["layer"] == 2], REFERENCES, None, evidence.MORE)
    assert asked == [6] and len(second) == 6 and not set(first["id"]) & set(second["id"])
    beside = with_evidence(rows, make().folder, evidence.MORE)
    says = rows["first item"] != ""
    assert beside.loc[says, list(MORE_EVIDENCE)].notna().all(axis=None) and says.any()
    whole = evidence_for(make("b"), rows, REFERENCES, None, evidence.MORE)
    pd.testing.assert_frame_equal(whole, with_evidence(rows, make().folder, evidence.MORE)[["id", *MORE_EVIDENCE]], atol=2e-3)
    assert (make().folder / FILE).read_bytes() == before and evidence_for(make(), rows, REFERENCES, bar=None).equals(usual)
