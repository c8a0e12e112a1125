"""Reproduce the paper: settle the settings, read what is missing, run the notebooks, publish what is complete."""

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .. import ROOT, InputError
from ..experiments import check_together, get, names
from ..models.catalogue import CATALOGUE, is_here
from ..runs.ledger import run_folder
from ..runs.locks import locked
from ..runs.stopping import NO_ROOM, Stopped, no_room
from ..words.files import check_writable, results_folder, shown, slug
from ..words.grammar import read_path
from ..words.rows import TRIED_AGAIN
from ..words.settings import Record, SourceOptions, read_settings
from .announce import announce
from .staging import Staging, was_new

QUICK = {"num_prompts": 8, "layers": "1,4,7"}
STUDY_DTYPES = {"qwen2.5-coder-0.5b": "bfloat16", "qwen2.5-coder-1.5b": "bfloat16"}  # float32 would take hours
LEAD = "qwen2.5-coder-1.5b"  # the model on which the effect is clearest: its best story is Superscopes.jpg


class Request(NamedTuple):
    """What a command asks for.

    Attributes:
        settings: of each chosen experiment, in the order in which their notebooks run.
        model: as the command names it; an experiment on no model of its own goes by its name.
        folder: of the results.
    """

    settings: dict[str, Record]
    model: str
    folder: Path


def run_to_end(work: Callable[[], int], command: str) -> int:
    """Do some work and turn the ways in which it may be stopped into exit codes.

    Args:
        work: returns an exit code.
        command: what continues it.
    """
    from .notebooks import passing_on_signals

    try:
        with passing_on_signals():
            return work()
    except Stopped as end:
        why = f" ({words})" if (words := str(end)) else ""
        print(f"\nStopped{why}. Nothing that was finished is lost; this continues:\n  {command}", file=sys.stderr)
        return end.code
    except RuntimeError as error:
        from ..engine.batches import SameFailures

        if not isinstance(error, SameFailures):
            raise
        print(f"\n{error}. What was read before is kept; this tries again:\n  {command}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(f"\n{no_room(error)}. What was there is whole; with more room, this continues:\n  {command}", file=sys.stderr)
        return 143


def reproduce(
    chosen: Sequence[str],
    texts: Sequence[str] = (),
    model: str = "",
    quick: bool = False,
    new: bool = False,
    command: str = "",
) -> int:
    """Read for some experiments, run their notebooks, and publish what they wrote once all are through.

    A command that was stopped or killed continues: finished notebooks are not run again, nor readings made again. Of
    one that is complete, the files are put back.

    Args:
        chosen: names of experiments.
        texts: NAME=VALUE settings of any of them.
        model: the same as a setting model=…
        quick: few prompts and layers, into runs/quick/<model>/.
        new: begin anew, beside what earlier runs have left.
        command: what the user typed, for `./runme.sh status`.

    Returns:
        The exit code: 0, or 3 if rows failed.

    Raises:
        InputError: before any weights load, whatever can be known by then.
        Stopped, Terminated: by a signal, by a full disk, or because a notebook's process was killed.
    """
    started = time.monotonic()
    request = settle(chosen, texts, model, quick)
    alone = request.folder if len(chosen) == 1 else None  # what it needs is among the results, or nowhere
    if alone:
        _earlier_files(chosen[0], request.settings[chosen[0]], alone)
    check_together(request.settings)
    run = run_folder(request.folder)
    new = new or any(getattr(settings, "new", False) for settings in request.settings.values())
    fingerprint = announce(request.settings, request.folder, new or was_new(run, command))
    check_writable(request.folder)

    asked = {name: settings.shown() for name, settings in request.settings.items()}
    about = {"command": command, "results": shown(request.folder), "new": new}
    with locked(run):
        staging = Staging(run, [asked, fingerprint], about)
        staging.open(anew=new or (alone is not None and _depends_on_others(chosen[0])))
        if staging.is_complete:
            print("Nothing is left to do; the files are put back (--new begins anew).")
        else:
            _read(request, staging, alone or staging.folder)
            _run_notebooks(request, staging, alone or staging.folder)
        written, failed = staging.publish(request.folder)
    print(f"Done in {(time.monotonic() - started) / 60:.1f} minutes. In {shown(request.folder)}/:")
    print("\n".join(f"  {path}" for path in written))
    for path in (path for path in written if path.suffix == ".json"):
        for sentence in json.loads((request.folder / path).read_text(encoding="utf-8")).get("verdict", []):
            print(sentence)
    if failed:
        again = "; the same command tries those again" if any(failed[status] for status in TRIED_AGAIN) else ""
        print(f"{failed.total()} rows failed; the column `status` says which and why{again}.", file=sys.stderr)
    return 3 if failed else 0


def study(texts: Sequence[str] = (), new: bool = False, command: str = "") -> int:
    """Reproduce every table and figure on each catalogue model that is here, and draw the effect by model size.

    A study that was stopped continues: of a model that is through, the files are put back.

    Raises:
        InputError, Stopped, Terminated: as `reproduce`.
    """
    if refused := [text for text in texts if text.startswith(("out_dir=", "model="))]:
        raise InputError("--study", refused[0], "each model has its own folder, data/<model>/")
    models = [alias for alias in CATALOGUE if is_here(alias)]
    chosen = names("default", "paper")
    has_dtype = any(text.startswith("dtype=") for text in texts)
    given = {
        alias: texts if has_dtype or alias not in STUDY_DTYPES else [*texts, f"dtype={STUDY_DTYPES[alias]}"]
        for alias in models
    }
    print(f"{len(models)} of {len(CATALOGUE)} catalogue models are here: {', '.join(models)}")
    for alias in models:
        request = settle(chosen, given[alias], alias)
        check_together(request.settings)
        announce(request.settings, request.folder, new or "new=true" in texts)
    codes = []
    for alias in models:
        print(f"\n== {alias}")
        codes.append(reproduce(chosen, given[alias], alias, new=new, command=command))
    for name in names("study"):
        known = get(name).Settings.model_fields
        codes.append(reproduce((name,), [text for text in texts if text.partition("=")[0] in known], command=command))
    if LEAD in models:
        from ..figures.style import as_jpeg

        as_jpeg(results_folder(LEAD) / "story_best.png", ROOT / "Superscopes.jpg")
    return max(codes)


def settle(chosen: Sequence[str], texts: Sequence[str] = (), model: str = "", quick: bool = False) -> Request:
    """Settle the settings of some experiments: what is given, or quick, or their defaults.

    Raises:
        InputError: no such experiment, no such setting, or a wrong value.
    """
    records = {name: get(name).Settings for name in chosen}
    given = read_settings(texts, records.values())
    if model and "model" in given:
        raise InputError("model", model, "given twice")
    if model:
        given["model"] = model
    if given.get("model", "") not in ("", *CATALOGUE):
        given["model"] = read_path(given["model"])
    given = (QUICK if quick else {}) | given
    settings = {
        name: record.of({key: value for key, value in given.items() if key in record.model_fields})
        for name, record in records.items()
    }
    first = settings[chosen[0]]
    model = getattr(first, "model", chosen[0])
    options = getattr(first, "source_options", SourceOptions()).changed
    out_dir = first.out_dir or (f"runs/quick/{slug(model, **options)}" if quick else "")
    return Request(settings, model, results_folder(model, out_dir, **options))


def _read(request: Request, staging: Staging, earlier: Path) -> None:
    """Read what the experiments ask of the model, with one model and one judge in memory for all of them.

    Args:
        earlier: the folder with the files that an experiment needs of others.
    """
    missing = [name for name in request.settings if _asks_first(get(name)) and not staging.is_through(name)]
    if not missing:
        return
    from ..runs.readings import Readings
    from ..runs.session import Session

    with Session(request.settings[missing[0]]) as session:
        for name in missing:
            table = get(name).TABLE or getattr(get(name), "READ_BESIDE", "") or f"{name}.csv"
            new = staging.begins_anew(name, table)
            given = {"out_dir": str(staging.folder), "new": new} | _earlier_files(name, request.settings[name], earlier)
            settings = request.settings[name]
            readings = Readings(settings.model_copy(update=given), session)
            gather = getattr(get(name), "gather", None)
            gather(readings) if gather else readings.read(get(name))
    del session
    gc.collect()  # the model's memory is the notebooks' now


def _run_notebooks(request: Request, staging: Staging, earlier: Path) -> None:
    """Run the notebooks that are not through.

    Args:
        earlier: the folder with the files that an experiment needs of others.
    """
    from .notebooks import parameters_of, run_notebooks

    given: dict[str, dict | None] = {}
    for name, settings in request.settings.items():
        if staging.is_through(name):
            given[name] = None
            continue
        given[name] = parameters_of(settings) | _earlier_files(name, settings, earlier)
        if (table := get(name).TABLE) and not _reads_first(get(name)) and staging.begins_anew(name, table):
            given[name]["new"] = True
    run_notebooks(given, staging.folder, request.folder)


def _asks_first(experiment) -> bool:
    """Tell whether an experiment asks the model for something here, before its notebook runs."""
    return _reads_first(experiment) or hasattr(experiment, "gather")


def _reads_first(experiment) -> bool:
    """Tell whether an experiment's readings are made here, before its notebook runs."""
    return bool(experiment.TABLE) and not getattr(experiment, "LOADS_MODEL", False)


def _depends_on_others(name: str) -> bool:
    """Tell whether an experiment reads files that may have changed since it was run alone."""
    experiment = get(name)
    return bool(experiment.NEEDS or getattr(experiment, "WANTS", ()) or not experiment.TABLE)


def _earlier_files(name: str, settings: Record, folder: Path) -> dict[str, list[str]]:
    """Find the files of other experiments that one needs, or would like, as its setting `results`.

    Raises:
        InputError: it needs some, and none is in the folder.
    """
    experiment = get(name)
    if "results" not in type(settings).model_fields or settings.results:
        return {}
    if experiment.NEEDS:
        found = [folder / file for file in experiment.NEEDS if (folder / file).is_file()]
        if not found:
            why = "no evaluation here yet; run an evaluation, or name CSVs with results="
            raise InputError("results", shown(folder), why)
        return {"results": [str(path) for path in found]}
    wanted = [folder / file for file in getattr(experiment, "WANTS", ())]
    return {"results": [str(path) for path in wanted]} if all(path.is_file() for path in wanted) else {}
