"""What the page opens with was read earlier, and equals what is read now."""

import numpy as np
import pandas as pd
import pytest
from serving import as_read

from helpers import ROOT, believe, sweep
from helpers.app import kept as module
from helpers.app import view
from helpers.app.desk import OTHERS, Desk
from helpers.app.kept import first_view, keep, kept
from helpers.app.settings import PageSettings
from helpers.judging.judge import Judge
from helpers.words.prompts import other_prompts, read_prompts
from helpers.words.settings import DEFAULT_MODEL


@pytest.fixture(scope="module")
def job(lm):
    return kept(lm, lm.dtype)


@pytest.mark.slow
def test_what_is_kept_equals_a_fresh_reading(lm, job):
    rows = sweep(lm, job.plan)
    fresh = as_read(job.rows)
    pd.testing.assert_frame_equal(fresh, rows, check_exact=True, check_dtype=False)
    best, chosen = believe(lm, rows), job.rows[job.rows["chosen"].str.contains("blind")]
    assert chosen["id"].tolist() == best["id"].tolist() and chosen["verdict"].tolist() == best["verdict"].tolist()
    pd.testing.assert_series_equal(chosen["confidence"], best["confidence"], atol=2e-3, rtol=0)
    pd.testing.assert_series_equal(chosen["mean_rank"], best["mean_rank"], atol=1e-9, rtol=0)
    judge, others = Judge(), other_prompts(job.settings.prompt, read_prompts(OTHERS))
    chance = judge.embed(list(rows["result"])) @ judge.embedded(others).T
    assert np.allclose([job.readings[id].chance for id in rows["id"]], chance, atol=1e-4)
    assert [job.readings[id].score for id in rows["id"]] == rows["score"].tolist()


def test_it_is_what_the_page_opens_with_and_no_other(lm, job, monkeypatch, tmp_path):
    assert job.settings == first_view(lm) == PageSettings.of({"model": DEFAULT_MODEL})
    assert job.state == "done" and set(job.readings) == set(job.weighed) == {item.id for item in job.items}
    assert kept(lm, "bfloat16") is None, "of another dtype"
    monkeypatch.setattr(type(lm.source), "fingerprint", lambda source: "another")
    assert kept(lm, lm.dtype) is None, "of another model's files"
    monkeypatch.undo()
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    assert kept(lm, lm.dtype) is None
    keep(job, lm)
    assert (tmp_path / "smollm2-135m.csv.gz").read_bytes() == (ROOT / "data/app/smollm2-135m.csv.gz").read_bytes()


def test_it_can_be_seen_before_the_model_is_loaded():
    desk = Desk(DEFAULT_MODEL)
    desk._lay_out()  # what its thread does first
    job = desk.recall(first_view(desk.card(DEFAULT_MODEL)))
    assert job.is_kept and not desk.loaded
    assert view.table(job, 5).count('<td class="blind') == 21
    assert "126 readings, kept from an earlier day. smollm2-135m, float32: loading smollm2-135m …" in view.status(desk, job)
    assert Desk(DEFAULT_MODEL, shows_kept=False).is_laid_out
