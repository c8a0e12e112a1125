"""The two evaluations' rows, for experiments that compare them with readings of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .. import InputError
from ..words.files import in_repository, json_of, results_folder
from ..words.methods import CHOSEN_BLIND
from ..words.prompts import LEAST_REFERENCES, read_prompts

if TYPE_CHECKING:
    import pandas as pd

    from ..judging.judge import Judge
    from ..words.settings import ModelSettings, Record

FILES = ("mlp_output.csv", "hidden_state.csv")
OTHER_ENTITIES = "elsewhere.csv.gz"
BLIND_FIRST = ("confidence", "agreement_contrast", "agreement", "agreement_amplifiers")  # the first there is "the blind one"
SETS = {"prompts": "prompts", "entities": "entities"}  # what was read -> the setting that names its file


def folder_of(settings: ModelSettings) -> Path:
    """Return the folder of results that settings name."""
    return results_folder(settings.model, settings.out_dir, **settings.source_options.changed)


def evaluated_beside(settings: ModelSettings, rows: pd.DataFrame, prompts: Collection[str]) -> pd.DataFrame:
    """Return the evaluations' rows of some prompts: those that `results` names, or those in the folder of results.

    Args:
        rows: readings that they are compared with, of the same model, made in the same way.

    Raises:
        InputError: there are none, or they can't be compared.
    """
    from ..runs.results import evaluations, read_evaluations

    found = read_evaluations(settings.results or evaluations(folder_of(settings)), rows.attrs)
    return found[found["source prompt"].isin(prompts)]


def read_sets(settings: Record) -> dict[str, pd.DataFrame]:
    """Read the evaluations' rows and those of other entities: a name of SETS -> rows, of those that are there.

    Args:
        settings: with `results`, `prompts` and `entities`; without results, they are in the folder of results.

    Raises:
        InputError: neither set was read; a file of `results` that isn't there, or isn't one of readings.
    """
    from ..runs.results import evaluations, read_results

    folder = folder_of(settings)
    others = [folder / OTHER_ENTITIES] if (folder / OTHER_ENTITIES).is_file() else []
    rows = read_results(settings.results or [*evaluations(folder), *others])
    found = {
        name: rows[rows["source prompt"].isin(read_prompts(getattr(settings, setting)))] for name, setting in SETS.items()
    }
    for some in found.values():
        some.attrs["model"] = {"name": ", ".join(rows.attrs["models"]) or settings.model}
    if not any(map(len, found.values())):
        raise InputError("prompts", settings.prompts, f"none of its prompts, nor of {settings.entities}, was read")
    return {name: some for name, some in found.items() if len(some)}


def check_asked(settings: Record, rows: Iterable[pd.DataFrame], model: str) -> None:
    """Check that stored readings are those of the model that is to be asked about them.

    Args:
        rows: of `runs.results.read_results`.
        model: its name in folders of results.

    Raises:
        InputError: readings of another model, or without ids, as others publish them.
    """
    for some in rows:
        if others := sorted(set(some.attrs["models"]) - {model}):
            raise InputError("results", others, f"readings of another model than {model}, which is asked about them")
        if "id" not in some or some["id"].isna().any():
            raise InputError("results", list(settings.results), "there is no model to ask about published readings")


def stored_beside(settings: Record) -> Path:
    """Return the folder in which the rows of `read_sets` are."""
    return in_repository(settings.results[0]).parent if settings.results else folder_of(settings)


def with_confidence(rows: pd.DataFrame, *folders: Path) -> pd.DataFrame:
    """Return rows with what the model told of them, and how likely each is right, by `how_sure` of a folder of results.

    Args:
        rows: of prompts that the confidence was not fitted on; probabilities that they have already stay.
        folders: the first that knows of some of the rows is taken.

    Returns:
        Rows with the columns of `evidence.EVIDENCE`, and `confidence` if there is a fit; NaN where nothing is known.
    """
    from ..judging.confidence import FILE, Confidence
    from ..runs.evidence import with_evidence

    told = rows
    for folder in dict.fromkeys(folders):
        told, confidence = with_evidence(rows, folder), Confidence.load(folder / FILE)
        if confidence:
            sure = confidence.of(told)
            told["confidence"] = told["confidence"].fillna(sure) if "confidence" in told else sure
            if sure.notna().any():
                break
    return told


def with_more_evidence(rows: pd.DataFrame, *folders: Path) -> pd.DataFrame:
    """Return rows with the columns of `more_evidence.MORE_EVIDENCE`, from the first folder of results that has some.

    Rows of which no folder knows any stay as they are.
    """
    from ..runs.evidence import MORE, with_evidence

    for folder in dict.fromkeys(folders):
        told = with_evidence(rows, folder, MORE)
        if told[list(MORE.columns)].notna().any(axis=None):
            return told
    return rows


def asked_more(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the readings of which all is known, of the vectors of whole layers and prompts.

    What costs more may have been gathered of a few layers, or be half gathered. Of each component, the layers count in
    which most prompts have all of it, and the prompts that have all of it in these; none, if they are too few to
    compare with each other.
    """
    import pandas as pd

    from ..judging.more_evidence import MORE_EVIDENCE
    from ..judging.score import first_items

    if not set(MORE_EVIDENCE) <= set(rows):
        return rows[:0]
    says = (rows["status"] == "ok") & (pd.Series(first_items(rows), rows.index) != "")
    told = rows[list(MORE_EVIDENCE)].notna().all(axis=1)
    kept = []
    for _, part in rows.groupby("component", sort=False):
        vectors = [part["layer"], part["source prompt"]]
        whole = (told | ~says)[part.index].groupby(vectors).all().unstack()
        whole &= told[part.index].groupby(part["layer"]).any().to_numpy()[:, None]
        of_layer = whole.sum(axis=1)
        layers = of_layer.index[of_layer == of_layer.max()]
        prompts = whole.columns[whole.loc[layers].all()]
        if len(prompts) > LEAST_REFERENCES:
            kept += part.index[part["layer"].isin(layers) & part["source prompt"].isin(prompts)].tolist()
    return rows.loc[sorted(kept)]


def fitted_folders(settings: Record) -> tuple[Path, Path]:
    """Return where `how_sure` may have been run: beside the rows, or before, for the same model."""
    return stored_beside(settings), results_folder(settings.model, **settings.source_options.changed)


def chosen_blind(rows: pd.DataFrame, judge: Judge) -> tuple[pd.DataFrame, dict[str, str]]:
    """Mark the one reading of each vector that is chosen blind, by the first of BLIND_FIRST that a component has.

    Args:
        rows: in the row schema, or as others publish them.

    Returns:
        The rows with the column `words.methods.CHOSEN_BLIND`, bool; component -> the criterion, "" where there is a
        single reading of each vector. A confidence that isn't known of every reading that says something is not used.
    """
    import pandas as pd

    from ..judging.criteria import choose, criteria_of
    from ..judging.score import first_items

    seen = rows if "status" in rows else rows.assign(status="ok")
    of_all = {criterion: choose(seen, criterion, judge) for criterion in BLIND_FIRST if criterion in criteria_of(seen)}
    says = (seen["status"] == "ok") & (pd.Series(first_items(seen), seen.index) != "")
    criteria, marked = {}, rows.assign(**{CHOSEN_BLIND: False})
    for component in rows["component"].unique():
        own, criteria[component] = rows["component"] == component, ""
        for criterion, chosen in of_all.items():
            part = chosen[chosen["component"] == component]
            has_gaps = criterion == "confidence" and (own & says & seen[criterion].isna()).any()
            if part[criterion].notna().any() and not has_gaps:
                criteria[component] = criterion
                marked.loc[part.index, CHOSEN_BLIND] = True
                break
        else:
            marked.loc[own, CHOSEN_BLIND] = True
    return marked, criteria


def is_published(settings: Record) -> bool:
    """Tell whether `results` are readings that others have published: no JSON says what ours are made with."""
    files = [in_repository(file) for file in settings.results]
    return bool(files) and all(file.is_file() and not json_of(file).is_file() for file in files)


def published(settings: Record) -> pd.DataFrame:
    """Return published readings of MLP outputs; of a grid point that stands there twice, the first."""
    from ..runs.results import read_results

    rows = read_results(settings.results)
    rows = rows.drop_duplicates(["component", "source prompt", "layer", "amplification value"], ignore_index=True)
    rows.attrs["model"] = {"name": settings.model}
    return rows.assign(**{"status": "ok", "target prompt": "", "seed": None})
