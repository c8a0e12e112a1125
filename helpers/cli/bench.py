"""`./runme.sh bench`: tasks with ground truth, from the folders that a user has of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .. import InputError
from ..bench import NAMES, get
from ..bench.settings import BenchSettings
from ..words.files import check_writable, results_folder, shown, slug
from ..words.settings import settle as settings_of
from . import DONE, FAILED_ROWS

TEXTS = "runs/bench"  # never with the results: the tasks' texts are others'


def bench(texts: Sequence[str], model: str = "", new: bool = False) -> int:
    """Measure the benchmarks whose folders are given; tables and figures go into data/<model>/, texts into runs/.

    Args:
        texts: NAME=VALUE settings of `BenchSettings`, or options of a model's source.
        model: the same as a setting model=…
        new: begin anew, beside what earlier runs have left.

    Returns:
        The exit code: 0 done, 3 with failed rows.

    Raises:
        InputError: before any weights load, whatever can be known by then.
        Stopped: by a signal; the same command continues.
    """
    settings = settle(texts, model, new)
    names = [name for name in NAMES if getattr(settings, name)]
    for name in names:  # before the slow imports
        get(name).REPOSITORY.files(name, settings.folder_of(name))
    print("checking the settings against the model …", flush=True)
    from ..bench import measure, report
    from ..models.load import check_hardware
    from ..runs.readings import Readings
    from ..runs.session import Session

    check_hardware(settings.dtype, settings.device)
    options = settings.source_options.changed
    folder = results_folder(settings.model, settings.out_dir, **options)
    texts_of = f"{TEXTS}/{slug(settings.model, **options)}"
    failed = False
    with Session(settings) as session:
        for name in names:
            for task in measure.read_tasks(get(name), settings, session.card):
                print(f"{name}: {task.name}, {len(task.cases):,} rows{_left_out(task.left_out)}", flush=True)
        check_writable(folder)
        for name in names:
            started = time.monotonic()
            readings = Readings(settings.model_copy(update={"out_dir": texts_of}), session)
            found = measure.measure(get(name), readings)
            said = report.save(get(name), settings, found, folder)
            failed |= found.failed > 0
            minutes = (time.monotonic() - started) / 60
            print(f"\n{name}: {get(name).QUESTION} {minutes:.1f} minutes. {shown(folder)}/bench_{name}…")
            print("\n".join(said), flush=True)
    return FAILED_ROWS if failed else DONE


def settle(texts: Sequence[str], model: str = "", new: bool = False) -> BenchSettings:
    """Return the settings that a command means.

    Raises:
        InputError: an unknown setting, a wrong value, or no benchmark.
    """
    settings = settings_of(BenchSettings, texts, {"model": model or None})
    if new:
        settings = settings.model_copy(update={"new": True})
    if not any(getattr(settings, name) for name in NAMES):
        where = "; ".join(f"{name}: https://github.com/{get(name).REPOSITORY.name}" for name in NAMES)
        raise InputError("bench", "", f"expected a folder for at least one of {'=, '.join(NAMES)}=; they come from {where}")
    return settings


def _left_out(reasons: dict[str, int]) -> str:
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"; left out: {told}" if told else ""
