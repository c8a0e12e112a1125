"""When can a reading be believed? The one that is most likely right, chosen blind, and how often it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .. import InputError
from ..judging.rules import DESCRIPTION, PROMPT, RULES
from ..words.components import GENTLE_GRID, title
from ..words.plans import make_plan
from ..words.prompts import OUR_PROMPTS, read_categories, read_gold, read_prompts
from ..words.settings import PROMPTS, THRESHOLD, Cosine, FilePath, FilePaths, Flag, ReadSettings, setting
from ._evaluated import FILES, OTHER_ENTITIES, check_asked, read_sets, stored_beside
from ._publish import publish
from ._sentences import in_runs, percent
from ._usual import ask_for_nothing, described

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..judging.judge import Judge
    from ..runs.readings import Readings

PLACE, WHEN = 104, "paper"
QUESTION = "when can a reading be believed?"
PAPER = "§6, automatic choice"
TABLE, READ_BESIDE = "", "same_layer.csv.gz"
NEEDS = (*FILES, OTHER_ENTITIES)

BOTH = "both"  # components together
NOTHING = (
    "No confidence could be fitted: that needs entities of two categories, and some dozens of right and of wrong "
    "readings. What this model writes stays uncalibrated."
)
INTO_SAME = ("pre_mlp_residual", "hidden_state")  # what `same_layer` reads
RESAMPLES = 1000  # of the entities, for an interval
SAME = "entities into their own layer"  # where the page's first example puts its vectors
HELD_OUT = {  # set -> why its confidence is no hindsight
    "entities": "fitted on the other categories",
    SAME: "fitted on the other categories",
    "prompts": "fitted on the entities",
}


class Settings(ReadSettings):
    """The parameters of the notebook."""

    prompts: FilePath = PROMPTS
    entities: FilePath = setting("data/entities.csv", "the same of the entities of `elsewhere`, on which it is fitted")
    references: FilePath = setting(OUR_PROMPTS, "other prompts, with whose vectors a reading's is compared")
    results: FilePaths = setting(
        (), "CSVs to read, relative to the repository; empty is the evaluations and `elsewhere` in out_dir"
    )
    same_layer: Flag = setting(True, "read the entities' residuals before the MLP and hidden states into their own layer, too")
    threshold: Cosine = THRESHOLD


plans = ask_for_nothing


def gold(settings: Settings) -> dict[str, str]:
    """Return the descriptions of the prompts and of the entities."""
    return described(settings) | read_gold(settings.entities)


def gather(readings: Readings) -> dict[str, pd.DataFrame]:
    """Ask the model about the stored readings, and fit a confidence on those of the entities, into confidence.json.

    Those that `same_layer` asks for are read here, into READ_BESIDE.

    Returns:
        "prompts", "entities", SAME -> rows with the columns of `evidence.EVIDENCE` and `confidence`.

    Raises:
        InputError: no readings of the entities, one that is a prompt, too, or as `check_asked` and
            `runs.evidence.evidence_for`.
    """
    import numpy as np
    import pandas as pd

    from ..judging.confidence import FILE, Confidence, digest_of, fit, out_of_category
    from ..judging.evidence import EVIDENCE
    from ..runs.evidence import evidence_for

    settings = readings.settings
    rows, references = read_sets(settings), read_prompts(settings.references, parameter="references")
    categories = read_categories(settings.entities)
    if "entities" not in rows:
        raise InputError("entities", settings.entities, "none of them was read yet; run elsewhere first")
    if both := sorted({*rows["entities"]["source prompt"]} & {*rows.get("prompts", rows["entities"][:0])["source prompt"]}):
        why = f"{both[0]!r} is among {settings.prompts}, too, which a fit on the entities must not have seen"
        raise InputError("entities", settings.entities, why)
    check_asked(settings, rows.values(), readings.card.slug)
    if settings.same_layer:
        rows[SAME] = _into_the_same_layer(readings, rows["entities"])
    whole = pd.concat(rows.values(), ignore_index=True)
    told = evidence_for(readings, whole, references, readings.bar)
    ends = np.cumsum([len(some) for some in rows.values()])[:-1]
    parts = zip(rows.items(), np.split(told[list(EVIDENCE)].to_numpy(), ends), strict=True)
    rows = {name: some.assign(**dict(zip(EVIDENCE, part.T, strict=True))) for (name, some), part in parts}
    entities = pd.concat([rows[name] for name in ("entities", SAME) if name in rows], ignore_index=True)
    kinds, right = entities["source prompt"].map(categories), is_right(entities, settings.threshold)
    model = {"name": readings.card.slug, "fingerprint": readings.card.source.fingerprint(), "dtype": settings.dtype}
    about = {
        "evidence": list(EVIDENCE), "references": settings.shown()["references"], "judge": readings.judge.name,
        "threshold": settings.threshold, "judged by": _rule(entities), "readings": len(entities),
        "entities": entities["source prompt"].nunique(), "digest": digest_of(entities, right),
    }  # fmt: skip
    confidence = Confidence(model, fit(entities, right), about)
    confidence.save(readings.folder / FILE)
    held_out, number = out_of_category(entities, right, kinds), len(rows["entities"])
    sure = {"entities": held_out[:number], SAME: held_out[number:]}
    if "prompts" in rows:
        sure["prompts"] = confidence.of(rows["prompts"])
    return {name: some.assign(confidence=sure[name].to_numpy()) for name, some in rows.items()}


def _into_the_same_layer(readings: Readings, entities: pd.DataFrame) -> pd.DataFrame:
    """Read entities, those of the other readings, into the layer that they are taken from."""
    from ..runs import ledger
    from ..runs.readings import Readings

    settings = readings.settings
    prompts, layers = entities["source prompt"].unique().tolist(), sorted(entities["layer"].unique().tolist())
    plan = make_plan(prompts, INTO_SAME, layers, GENTLE_GRID, max_new_tokens=settings.max_new_tokens)
    begun = ledger.ledgers(ledger.run_folder(readings.folder) / READ_BESIDE.partition(".")[0])
    continues = settings.new or not all(map(ledger.is_complete, begun))
    reuse = settings.reuse or ("" if continues else str(stored_beside(settings)))
    beside = Readings(settings.model_copy(update={"reuse": reuse}), readings.session, readings.bar)
    rows = beside.of(READ_BESIDE, [plan], gold(settings))
    return rows[~rows["id"].isin(entities["id"])].reset_index(drop=True)  # layer 0 into 0 is among both


def is_right(rows: pd.DataFrame, threshold: float) -> np.ndarray:
    """Tell which readings describe what their vector stands for: (n,) bool, by the leading rule."""
    return (rows[{DESCRIPTION.name: "score gold", PROMPT.name: "score"}[_rule(rows)]] > threshold).to_numpy()


def _rule(rows: pd.DataFrame) -> str:
    return (DESCRIPTION if rows["score gold"].notna().any() else PROMPT).name


class Found(NamedTuple):
    """What the confidence is worth.

    Attributes:
        model: whose it is.
        sets: what was read -> how many prompts, and which layers.
        chosen: one reading of each vector, the most likely right: set, right, confidence, believed, and columns of the
            row schema.
        table: of each set and component (and BOTH): set, component, vectors, right (the share), promised (the mean
            confidence), auroc and error (the calibration error) with intervals over entities, believed (how many),
            right of the believed, and the same by chance.
        diagrams: (set, component) -> the reliability diagram.
    """

    model: str
    sets: dict[str, tuple[int, str]]
    chosen: pd.DataFrame
    table: pd.DataFrame
    diagrams: dict[tuple[str, str], pd.DataFrame]


def tables(settings: Settings, rows: Mapping[str, pd.DataFrame]) -> Found:
    """Choose the reading of each vector that is most likely right, and see how often it is."""
    import pandas as pd

    from ..judging.confidence import BELIEVED, reliability
    from ..judging.criteria import best_of
    from ..judging.judge import Judge

    judge, sets, chosen, lines, diagrams = Judge(settings.judge, settings.threshold), {}, [], [], {}
    for name in HELD_OUT:
        if name not in rows or not (sure := rows[name][rows[name]["confidence"].notna()]).size:
            continue
        sets[name] = rows[name]["source prompt"].nunique(), in_runs(rows[name]["layer"])
        best = sure.loc[best_of(sure, sure["confidence"])]
        best = best.assign(
            set=name, right=is_right(best, settings.threshold), believed=best["confidence"] >= BELIEVED,
            chance=_by_chance(best, gold(settings), judge),
        )  # fmt: skip
        chosen.append(best)
        components = list(best["component"].unique())
        for component in [*components, *([BOTH] if len(components) > 1 else [])]:
            part = best if component == BOTH else best[best["component"] == component]
            lines.append({"set": name, "component": component} | _numbers(part))
            diagrams[name, component] = reliability(part["confidence"], part["right"])
    model, nothing = next(iter(rows.values())).attrs["model"]["name"], next(iter(rows.values()))[:0]
    nothing = nothing.assign(set="", right=False, believed=False, chance=0.0).astype({"right": bool, "believed": bool})
    whole = pd.concat(chosen, ignore_index=True) if chosen else nothing
    return Found(model, sets, whole, pd.DataFrame(lines, columns=None if lines else ["set", "component"]), diagrams)


def _by_chance(rows: pd.DataFrame, descriptions: Mapping[str, str], judge: Judge) -> np.ndarray:
    """Return, of each reading, the share of other prompts that would judge it right: (n,)."""
    from ..judging.chance import by_chance

    prompts = list(rows["source prompt"].unique())
    truths = [descriptions.get(prompt, prompt) for prompt in prompts]
    own = rows["source prompt"].map(dict(zip(prompts, truths, strict=True))).to_numpy()
    cosines = judge.embedded(rows["result"].tolist()) @ judge.embedded(truths).T
    return by_chance(cosines > judge.threshold, own[:, None] != truths)


def _numbers(rows: pd.DataFrame) -> dict[str, float]:
    """Return what a set's readings of a component show."""
    from ..judging.confidence import auroc, calibration_error

    sure, right = rows["confidence"].to_numpy(), rows["right"].to_numpy()
    believed = rows["believed"].to_numpy()
    found = {
        "vectors": len(rows), "right": right.mean(), "promised": sure.mean(), "right by chance": rows["chance"].mean(),
        "believed": int(believed.sum()),
        "right of the believed": right[believed].mean() if believed.any() else float("nan"),
        "right of the believed by chance": rows["chance"][believed].mean() if believed.any() else float("nan"),
    }  # fmt: skip
    for name, number in (("auroc", auroc), ("error", calibration_error)):
        low, high = _interval(rows, number)
        found |= {name: number(sure, right), f"{name} low": low, f"{name} high": high}
    return {name: round(float(value), 4) if name not in ("vectors", "believed") else value for name, value in found.items()}


def _interval(rows: pd.DataFrame, number) -> tuple[float, float]:
    """Return the 95 % interval of a number over entities."""
    import numpy as np

    sure, right = rows["confidence"].to_numpy(), rows["right"].to_numpy()
    of = list(rows.groupby("source prompt").indices.values())
    rng, found = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([of[entity] for entity in rng.integers(len(of), size=len(of))])
        found.append(number(sure[drawn], right[drawn]))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return low, high


def sentences(settings: Settings, found: Found) -> list[str]:
    """Say, per set and component, how well the confidence tells right from wrong, and what the believed are worth."""
    said = [] if found.sets else [NOTHING]
    for row in found.table.to_dict("records"):
        of = "both components" if row["component"] == BOTH else title(row["component"])
        believed = (
            f"{_counted(row['believed'])} believed, of these {percent(row['right of the believed'])} are right (by chance "
            f"{percent(row['right of the believed by chance'])})" if row["believed"] else "no reading is believed"
        )  # fmt: skip
        said.append(
            f"{found.sets[row['set']][0]} {row['set']}, {of}: of {row['vectors']} vectors, {percent(row['right'])} are read "
            f"right (by chance {percent(row['right by chance'])}); {believed}. AUROC {_with_interval(row, 'auroc', '{:.2f}')}; calibration error "
            f"{_with_interval(row, 'error', '{:.1%}')}."
        )
    return said


def _counted(readings: int) -> str:
    return "1 reading is" if readings == 1 else f"{readings} readings are"


def _with_interval(row: Mapping[str, float], name: str, form: str) -> str:
    if row[name] != row[name]:
        return "can't be told"
    value, low, high = (form.format(row[key]).replace("%", " %") for key in (name, f"{name} low", f"{name} high"))
    return f"{value} ({low} to {high})"


def caption(settings: Settings, found: Found) -> str:
    """Say what the figure shows."""
    if not found.sets:
        return f"{found.model}. {NOTHING}"
    sets = "; ".join(
        f"{count} {name}, source layers {layers}, {HELD_OUT[name]}" for name, (count, layers) in found.sets.items()
    )
    return (
        f"{found.model}. {sets}. Of each vector the reading that is most likely right, by the model's own evidence, which "
        f"sees neither the prompt nor a description. Right: {RULES[_rule(found.chosen)].similar} above {settings.threshold:g}. Above, as many readings in "
        "each dot; on the line, what is promised is true. Left of the dotted line there is no reading to believe."
    )


def figure(settings: Settings, found: Found) -> Figure:
    """Draw, per set, the reliability diagram of each component and how many readings are how sure."""
    import matplotlib.pyplot as plt

    from ..figures import panels
    from ..figures.style import STYLE

    with plt.rc_context(STYLE):
        if not found.sets:
            return panels.finish(plt.figure(figsize=(8, 1), layout="constrained"), caption(settings, found))
        drawn, rows = plt.subplots(
            2, len(found.sets), figsize=(5.4 * len(found.sets), 7), height_ratios=(3, 1), squeeze=False, sharex=True,
            layout="constrained",
        )  # fmt: skip
        for column, name in enumerate(found.sets):
            _draw_reliability(rows[0, column], found, name)
            _draw_counts(rows[1, column], found.chosen[found.chosen["set"] == name])
            rows[0, column].set_title(f"{found.sets[name][0]} {name},\n{HELD_OUT[name]}", fontsize=10)
        rows[0, 0].set_ylabel("right")
        rows[1, 0].set_ylabel("vectors")
        panels.legend_below(drawn, *rows[0], rows[1, 0], columns=6)
        return panels.finish(drawn, caption(settings, found))


def _draw_reliability(axes: Axes, found: Found, name: str) -> None:
    """Draw the share that is right over what was promised, a line of dots per component."""
    from ..figures import panels
    from ..figures.style import INK, LINE, NULL_COLOUR
    from ..judging.confidence import BELIEVED
    from ..words.methods import AMPLIFIED, PLAIN

    axes.plot([0, 1], [0, 1], color=LINE, lw=1.5, zorder=0)
    axes.axvline(BELIEVED, color=NULL_COLOUR, lw=0.8, ls=":")
    looks = {
        "mlp_output": (AMPLIFIED.colour, "o"), "hidden_state": (PLAIN.colour, "s"), "pre_mlp_residual": (NULL_COLOUR, "^"),
        BOTH: (INK, "D"),
    }  # fmt: skip
    said = []
    for (set_name, component), diagram in found.diagrams.items():
        if set_name != name:
            continue
        colour, marker = looks.get(component, (INK, "^"))
        label = "both together" if component == BOTH else title(component)
        look = {"lw": 1.4, "ms": 5} if component == BOTH else {"lw": 0.8, "ms": 4, "alpha": 0.55}
        axes.plot(diagram["confidence"], diagram["right"], color=colour, marker=marker, label=label, **look)
        row = found.table[(found.table["set"] == name) & (found.table["component"] == component)].iloc[0]
        said.append(f"{label}: AUROC {row['auroc']:.2f}, error {100 * row['error']:.0f} %")
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.text(0.02, 0.98, "\n".join(said), transform=axes.transAxes, va="top", fontsize=8.5, bbox=ground)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    panels.percent(axes.yaxis)


def _draw_counts(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw how many vectors have which confidence, the right ones below the wrong ones."""
    import numpy as np

    from ..figures import panels
    from ..figures.style import NULL_COLOUR
    from ..judging.confidence import BELIEVED
    from ..words.methods import AMPLIFIED

    parts = [rows["confidence"][rows["right"]], rows["confidence"][~rows["right"]]]
    axes.hist(parts, np.linspace(0, 1, 21), stacked=True, color=[AMPLIFIED.colour, "#d5dae1"], label=["right", "wrong"])
    axes.axvline(BELIEVED, color=NULL_COLOUR, lw=0.8, ls=":")
    axes.set_xlabel("promised: the probability that the reading is right")
    panels.percent(axes.xaxis)
    axes.locator_params(axis="y", nbins=4, integer=True)


def save(settings: Settings, found: Found, drawn: Figure, folder: Path) -> None:
    """Write the figure, the chosen readings with their confidence, and the numbers."""
    about = {
        "model": found.model,
        "threshold": settings.threshold,
        "sets": {name: {"prompts": count, "layers": layers} for name, (count, layers) in found.sets.items()},
        "numbers": found.table.astype(object).where(found.table.notna(), None).to_dict("records"),
        "verdict": sentences(settings, found),
    }
    columns = ["set", "source prompt", "token", "layer", "component", "amplification value", "result"]
    rows = found.chosen[[*columns, "confidence", "believed", "right", "id"]]
    publish(folder, {"how_sure": drawn}, rows.round({"confidence": 3}), "how_sure.csv.gz", about)
