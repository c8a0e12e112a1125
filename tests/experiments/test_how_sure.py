"""One reading per vector with its confidence: from stored readings and evidence to the figure."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from helpers import InputError
from helpers.cli.score import gold_of
from helpers.experiments import how_sure
from helpers.experiments import which_amplifier as which
from helpers.judging.confidence import FILE, Confidence
from helpers.judging.evidence import EVIDENCE
from helpers.judging.more_evidence import MORE_EVIDENCE
from helpers.judging.score import score
from helpers.runs import evidence
from helpers.runs.readings import Readings
from helpers.runs.results import read_results, save_results
from helpers.words.prompts import read_gold, read_prompts

pytestmark = pytest.mark.usefixtures("few_resamples")

PROMPTS = read_prompts("data/prompts.csv")[::3]
ENTITIES = read_prompts("data/entities.csv")[::4]
GOLD = read_gold("data/prompts.csv") | read_gold("data/entities.csv")
COMPONENTS = {"mlp_output": (1, 3, 6), "hidden_state": (1, 1.5, 2)}


def made(prompts, component) -> pd.DataFrame:
    """Readings in two layers: a fifth of the vectors is read right at one amplifier, the rest says soup."""
    rng, lines = np.random.default_rng(len(prompts)), []
    for prompt in prompts:
        for layer in (2, 5):
            right = rng.integers(3) if rng.random() < 0.6 else -1
            for number, amplifier in enumerate(COMPONENTS[component]):
                says = GOLD[prompt] if number == right else "a kind of soup"
                lines.append((prompt, layer, float(amplifier), f": {says}, x", component, f"{prompt} {component} {layer} {number}"))
    columns = ["source prompt", "layer", "amplification value", "result", "component", "id"]
    rows = pd.DataFrame(lines, columns=columns).assign(token="x", position=0, status="ok", message="", seed=pd.NA)
    rows = rows.assign(**{"target layer": rows["layer"], "target prompt": "paper", "rho": 1.0})
    return score(rows, gold=GOLD)


def told(rows) -> pd.DataFrame:
    """Evidence that knows which readings are right, most of the time."""
    rng = np.random.default_rng(5)
    right = ~rows["result"].str.contains("soup").to_numpy()
    values = {name: right * (2.5 if name in ("pmi", "round_trip") else 0) + rng.normal(size=len(rows)) for name in EVIDENCE}
    return pd.DataFrame({"id": rows["id"], **values}).round(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folder):
    """A folder of results of the small model: both evaluations, other entities, and their evidence."""
    tmp_path = tmp_path_factory.mktemp("results")
    settings = how_sure.Settings.of({"model": str(tiny_folder), "out_dir": str(tmp_path)})
    readings = Readings(settings, bar=None)
    head = evidence._head(readings, read_prompts(settings.references))
    for component in COMPONENTS:
        rows = made(PROMPTS, component)
        rows.attrs = {"model": head["model"]}
        save_results(rows, tmp_path / f"{component}.csv")
    rows = pd.concat([made(ENTITIES, component) for component in COMPONENTS])
    rows.attrs = {"model": head["model"]}
    save_results(rows, tmp_path / "elsewhere.csv.gz")
    whole = read_results([*(tmp_path / f"{component}.csv" for component in COMPONENTS), tmp_path / "elsewhere.csv.gz"])
    table = told(whole)
    table.attrs = head
    save_results(table, tmp_path / evidence.FILE)
    return tmp_path


@pytest.fixture
def stored(folder, tmp_path, tiny_folder):
    """Readings of a copy of it."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    given = {"model": str(tiny_folder), "out_dir": str(tmp_path), "same_layer": False}
    return Readings(how_sure.Settings.of(given), bar=None)


def test_one_reading_per_vector_with_its_confidence(stored, monkeypatch, tmp_path):
    monkeypatch.setattr("helpers.models.load.load_model", lambda *_, **__: pytest.fail("its evidence is there"))
    settings, rows = stored.settings, how_sure.gather(stored)
    found = how_sure.tables(settings, rows)
    assert found.sets == {"entities": (len(ENTITIES), "2, 5"), "prompts": (16, "2, 5")}
    assert len(found.chosen) == (len(ENTITIES) + 16) * 2 * 2
    for row in found.table[found.table["component"] == how_sure.BOTH].to_dict("records"):
        assert row["auroc low"] < row["auroc"] < row["auroc high"] and row["auroc"] > 0.85
        assert row["error low"] <= row["error"] < 0.2
        assert row["right of the believed"] > 0.8 > 0.4 > row["right of the believed by chance"]
        assert row["right"] == pytest.approx(row["promised"], abs=0.15) and row["right"] > 0.3
    said = how_sure.sentences(settings, found)
    assert len(said) == 6 and "readings are believed, of these" in said[0] and "; calibration error " in said[0]
    drawn = how_sure.figure(settings, found)
    assert len(drawn.axes) == 4 and "fitted on the other categories" in how_sure.caption(settings, found)
    how_sure.save(settings, found, drawn, tmp_path)
    table = pd.read_csv(tmp_path / "how_sure.csv.gz")
    assert {"confidence", "believed", "right", "id"} <= {*table} and len(table) == len(found.chosen)
    assert (table["believed"] == (table["confidence"] >= 0.5)).mean() > 0.99
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["model"]["fingerprint"] == stored.card.source.fingerprint() and kept["about"]["entities"] == len(ENTITIES)


def test_a_place_has_a_confidence_of_its_own(stored, monkeypatch, tmp_path):
    """Hidden states that are put into their own layer are read right less often than the others, and promised less."""
    into_first, asked = made(ENTITIES, "hidden_state").assign(**{"target layer": 0}), []
    into_same = made(read_prompts("data/entities.csv")[::2], "hidden_state").assign(id=lambda rows: "same " + rows["id"])
    into_same.loc[into_same.index % 2 > 0, ["result", "score", "score gold"]] = "a kind of soup", 0.0, 0.0
    into_same = score(into_same.drop(columns="first item", errors="ignore"), gold=GOLD)
    others = pd.concat([made(ENTITIES, "mlp_output"), into_first])
    for rows, name in ((others, "elsewhere.csv.gz"), (into_same, how_sure.READ_BESIDE)):
        rows.attrs = {"model": json.loads((tmp_path / "elsewhere.json").read_text())["model"]}
        save_results(rows, tmp_path / name)
    files = [f"{component}.csv" for component in COMPONENTS]
    table = told(read_results([tmp_path / name for name in (*files, "elsewhere.csv.gz", how_sure.READ_BESIDE)]))
    table.attrs = evidence._head(stored, read_prompts(stored.settings.references))
    save_results(table, tmp_path / evidence.FILE)

    def of(self, name, plans, gold):
        asked.extend(plans)
        return read_results([tmp_path / name])

    monkeypatch.setattr(Readings, "of", of)
    stored.settings = stored.settings.model_copy(update={"same_layer": True})
    rows = how_sure.gather(stored)
    [plan] = asked
    assert plan.components == how_sure.INTO_SAME and plan.target_layers == ("same",)
    known = Confidence.load(stored.folder / FILE)
    assert set(known.fitted) == {"mlp_output into same", "hidden_state into 0", "hidden_state into same"}
    found = how_sure.tables(stored.settings, rows)
    numbers = found.table.set_index(["set", "component"])
    same, first = numbers.loc[(how_sure.SAME, "hidden_state")], numbers.loc[("entities", "hidden_state")]
    assert same["right"] < 0.7 * first["right"] and same["promised"] < 0.7 * first["promised"]
    assert len(how_sure.figure(stored.settings, found).axes) == 6
    assert any("entities into their own layer, Hidden states" in said for said in how_sure.sentences(stored.settings, found))
    shown = stored.settings.shown()
    assert gold_of(how_sure.READ_BESIDE, shown)[ENTITIES[0]] == GOLD[ENTITIES[0]] and not gold_of("", shown), "to score it anew"
    elsewhere = rows["entities"].assign(**{"target layer": 3})
    assert known.of(elsewhere).isna().all() and not known.knows(elsewhere).any(), "nobody tried that"


def test_the_confidence_of_an_entity_never_saw_its_category(stored):
    """The stored fit is for others; an entity's own number comes from a fit without its category."""
    rows = how_sure.gather(stored)
    kept = Confidence.load(stored.folder / FILE)
    assert np.allclose(kept.of(rows["prompts"]), rows["prompts"]["confidence"])
    assert not np.allclose(kept.of(rows["entities"]), rows["entities"]["confidence"], atol=1e-4)


def test_which_amplifier_chooses_by_it(stored):
    how_sure.gather(stored)
    settings = which.Settings.of({"model": stored.settings.model, "out_dir": str(stored.folder)})
    found = which.tables(settings, which.read(settings))
    assert found.blind == "confidence" and set(which.CHOICES) - set(found.table["choice"]) == {*MORE_EVIDENCE, "mean_rank_all"}
    of = found.table[(found.table["judged by"] == "description") & (found.table["set"] == "entities")]
    of = of.set_index(["component", "choice"])["effect"]
    for component in COMPONENTS:
        assert of[component, "confidence"] > 0.8 * of[component, which.BEST] > of[component, which.FIXED]
        assert of[component, "pmi"] > of[component, "entropy"], "which is noise here"


def test_where_more_is_known_all_criteria_stand_beside_each_other(stored, tmp_path):
    """Of one layer of one component all is known, of another half of the prompts: the whole one is judged by itself."""
    how_sure.gather(stored)
    rows = read_results([tmp_path / "hidden_state.csv"])
    known = rows[(rows["layer"] == 5) | rows["source prompt"].isin(PROMPTS[:7])]
    right = ~known["result"].str.contains("soup").to_numpy()
    table = known[["id"]].assign(pmi_mean=right * 1.0, specificity=right * 2.0, consistency=0.125)
    table.attrs = {"made": "by hand"}
    save_results(table, tmp_path / evidence.MORE.file)
    settings = which.Settings.of({"model": stored.settings.model, "out_dir": str(tmp_path)})
    found = which.tables(settings, which.gather(Readings(settings, bar=None)))
    assert found.sets == {"prompts": (16, "2, 5"), "prompts asked more": (16, "5"), "entities": (len(ENTITIES), "2, 5")}
    of = found.table[found.table["judged by"] == "description"].set_index(["set", "component", "choice"])
    more = of.loc["prompts asked more"]
    assert set(which.CHOICES) == set(more.loc["hidden_state"].index) and "mlp_output" not in more.index
    best = more.loc[("hidden_state", which.BEST), "rate"]
    assert more.loc[("hidden_state", "specificity"), "rate"] == more.loc[("hidden_state", "pmi_mean"), "rate"] == best > 0
    assert more.loc[("hidden_state", "consistency"), "rate"] < best, "the first of equals"
    assert set(of.loc["prompts", "hidden_state"].index).isdisjoint(MORE_EVIDENCE), "not known of all"
    drawn = which.figure(settings, found)
    assert sum(axes.get_visible() for axes in drawn.axes) == len(drawn.axes) - len(found.rules)
    assert "Asked more: the part of which all criteria are known" in which.caption(settings, found)
    assert any(said.startswith("16 prompts asked more, Hidden states") for said in which.sentences(settings, found))


def test_other_ways_stand_below(stored, tmp_path):
    line = {"judged by": "description", "rate": 0.2, "null": 0.1, "null_low": 0.05, "null_high": 0.15, "low": 0.0, "high": 0.3}
    table = pd.DataFrame([
        line | {"component": component, "way": way, "choice": choice, "effect": effect}
        for component in COMPONENTS for way in ("plain", "norm")
        for choice, effect in (("fixed", 0.1), ("blind", 0.15), ("best of all", 0.2))
    ])  # fmt: skip
    table.attrs = {"threshold": 0.3, "prompts": 48, "layers": "2, 5, 9, 14", "blind": "agreement_contrast"}
    save_results(table, tmp_path / "ways_to_amplify_found.csv")
    settings = which.Settings.of({"model": stored.settings.model, "out_dir": str(tmp_path)})
    found = which.tables(settings, which.read(settings))
    [said] = [said for said in which.sentences(settings, found) if "Other ways" in said and "MLP" in said]
    assert "layers 2, 5, 9, 14" in said and "norm 15.0 % (fixed 10.0 %, best 20.0 %)" in said
    before = len(which.figure(settings, found._replace(ways=found.ways[:0])).axes)
    assert len(which.figure(settings, found).axes) == before + 2
    assert "Below, 48 prompts, source layers 2, 5, 9, 14" in which.caption(settings, found)
    other = settings.model_copy(update={"threshold": 0.4})
    assert not len(which.tables(other, which.read(other)).ways), "judged otherwise"


def test_what_cannot_be_asked_is_refused(stored, tmp_path):
    def gather(**given):
        settings = which.Settings.of({"model": stored.settings.model, "out_dir": str(tmp_path)} | given)
        return which.gather(Readings(settings, bar=None))

    with pytest.raises(InputError, match="witnesses=9: "):
        gather(witnesses="9")
    with pytest.raises(InputError, match="witnesses='soon'"):
        gather(witnesses="soon")
    with pytest.raises(InputError, match="references='nowhere.csv': no such file"):
        gather(witnesses="2", references="nowhere.csv")
    (tmp_path / "theirs.csv").write_bytes((tmp_path / "mlp_output.csv").read_bytes())
    with pytest.raises(InputError, match="witnesses='2': there is no model to ask about published readings"):
        gather(witnesses="2", results=[str(tmp_path / "theirs.csv")])


def test_without_a_fit_it_says_so(stored, tmp_path):
    rows = read_results(tmp_path / "elsewhere.csv.gz")
    attrs = {"model": json.loads((tmp_path / "elsewhere.json").read_text())["model"]}
    few = rows[rows["source prompt"].isin(ENTITIES[:4])]
    few.attrs = attrs
    save_results(few.drop(columns="first item"), tmp_path / "elsewhere.csv.gz")
    found = how_sure.tables(stored.settings, how_sure.gather(stored))
    assert found.sets == {} and how_sure.sentences(stored.settings, found) == [how_sure.NOTHING]
    drawn = how_sure.figure(stored.settings, found)
    how_sure.save(stored.settings, found, drawn, tmp_path)
    assert "stays uncalibrated" in how_sure.caption(stored.settings, found)
    settings = which.Settings.of({"model": stored.settings.model, "out_dir": str(stored.folder)})
    chosen = set(which.tables(settings, which.read(settings)).table["choice"])
    assert "confidence" not in chosen and "mean_rank" in chosen, "the evidence is there all the same"


def test_a_file_that_is_not_there_is_named(stored):
    for name, words in (("results", "results='nowhere.csv': no such file"), ("references", "references='nowhere.csv': no such")):
        given = {"results": ["nowhere.csv"]} if name == "results" else {name: "nowhere.csv"}
        settings = how_sure.Settings.of({"model": stored.settings.model, "out_dir": str(stored.folder), "same_layer": False} | given)
        with pytest.raises(InputError, match=words):
            how_sure.gather(Readings(settings, bar=None))


def test_without_entities_it_is_refused(stored, tmp_path):
    (tmp_path / "elsewhere.csv.gz").unlink()
    with pytest.raises(InputError, match="none of them was read yet; run elsewhere first"):
        how_sure.gather(stored)


def test_where_nothing_was_fitted_of_a_component_its_criterion_chooses_nothing(stored, tmp_path):
    how_sure.gather(stored)
    kept = json.loads((tmp_path / FILE).read_text())
    del kept["fitted"]["mlp_output into same"]
    (tmp_path / FILE).write_text(json.dumps(kept))
    settings = which.Settings.of({"model": stored.settings.model, "out_dir": str(stored.folder)})
    found = which.tables(settings, which.read(settings))
    choices = found.table[found.table["set"] == "prompts"].groupby("component")["choice"].agg(set)
    assert "confidence" in choices["hidden_state"] and "confidence" not in choices["mlp_output"]
    said = [one for one in which.sentences(settings, found) if one.startswith("16 prompts")]
    assert any("MLP outputs" in one and "chosen blind (agreement_contrast)" in one for one in said)
    assert any("Hidden states" in one and "chosen blind (confidence)" in one for one in said)
    assert which.figure(settings, found)


def test_a_fit_on_what_is_judged_is_refused(stored):
    settings = stored.settings.model_copy(update={"entities": "data/prompts.csv"})
    with pytest.raises(InputError, match="entities='data/prompts.csv': .* is among data/prompts.csv, too"):
        how_sure.gather(Readings(settings, bar=None))


def test_a_model_is_not_asked_about_another_s_readings(stored, tmp_path):
    for file in ("mlp_output.json", "hidden_state.json", "elsewhere.json"):
        about = json.loads((tmp_path / file).read_text())
        about["model"]["name"] = "another"
        (tmp_path / file).write_text(json.dumps(about))
    with pytest.raises(InputError, match="results=.*another.*: readings of another model than"):
        how_sure.gather(stored)
    settings = which.Settings.of({"model": stored.settings.model, "out_dir": str(tmp_path), "witnesses": "2"})
    with pytest.raises(InputError, match="results=.*another.*: readings of another model than"):
        which.gather(Readings(settings, bar=None))
