"""The notebooks of the paper through papermill: check every setting, run, publish what is complete."""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import papermill

from . import ROOT, InputError, ledger
from .catalogue import CATALOGUE, is_here
from .experiments import GRIDS
from .ledger import AGAIN, COMPLETE, FAILED, STAGING, STATE, UNFINISHED, locked, run_folder, shown
from .notebooks import NOT_SHOWN, passing_on_signals, run_notebook
from .parameters import as_path, parse_settings, plans_of, read_parameters
from .plots.style import as_jpeg
from .results import check_comparable, check_writable, evaluations, results_folder, slug, write_atomically
from .stopping import NO_ROOM, Stopped

# In the order that they run: what reads comes after what writes.
NOTEBOOKS = ("mlp_output_evaluation", "hidden_state_evaluation", "layer_success_plots")
PAPER = (
    "guidance", "before_context", "every_component", "story", "amplification_or_tries", "effect_and_scoring",
    "elsewhere", "stability",
)  # fmt: skip
ON_REQUEST = (*PAPER, "model_sizes", "can_it_speak")
NEED_EVALUATIONS = (
    "layer_success_plots",
    "before_context",
    "every_component",
    "amplification_or_tries",
    "effect_and_scoring",
)
READ_RESULTS = (*NEED_EVALUATIONS, "story", "model_sizes")  # of earlier runs, where they run alone
COMPARE = ("before_context", "every_component", "amplification_or_tries")  # evaluations with readings of their own
QUICK = {"num_prompts": 8, "layers": "1,4,7"}
STUDY_DTYPES = {"qwen2.5-coder-0.5b": "bfloat16", "qwen2.5-coder-1.5b": "bfloat16"}  # float32 would take hours
LEAD = "qwen2.5-coder-1.5b"  # the model on which the effect is clearest: its best story is Superscopes.jpg
START_SECONDS = 20  # of a notebook: its kernel, the imports, the models


def main(arguments: list[str] | None = None) -> int:
    """The command line; see `./runme.sh help`.

    Returns:
        The exit code: 0 done, 2 bad input, 3 rows that failed, 130 and 143 stopped.
    """
    parser = argparse.ArgumentParser("runme.sh reproduce", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--model", help="of the catalogue (./runme.sh models), a folder, a .gguf file, a hub id owner/name"
    )
    parser.add_argument("--quick", action="store_true", help="few prompts and layers, into runs/quick/<model>/")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", metavar="NOTEBOOK", help=f"one of {', '.join(NOTEBOOKS + ON_REQUEST)}")
    which.add_argument("--all", action="store_true", help="every table and figure of the paper, with its controls")
    which.add_argument("--study", action="store_true", help="--all on every catalogue model that is here, and by size")
    parser.add_argument("--new", action="store_true", help="begin anew, beside what earlier runs have left")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--workers", type=int, metavar="N", help="read in N processes of this machine")
    who.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="read on the workers of a Dask scheduler")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="any parameter of the notebooks")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_intermixed_args(arguments)
    again = shlex.join(["./runme.sh", "reproduce", *(one for one in arguments if one not in ("--new", "new=true"))])
    settings = [*options.settings, *(["new=true"] if options.new else [])]
    if options.workers is not None or options.scheduler:
        settings.append(f"workers={options.scheduler or options.workers}")
    try:
        with passing_on_signals():
            if options.study:
                if options.model or options.quick:
                    raise InputError("--study", "--model" if options.model else "--quick", "goes with neither")
                return study(settings, again)
            notebooks = (options.only,) if options.only else NOTEBOOKS + PAPER if options.all else NOTEBOOKS
            return reproduce(settings, options.model, options.quick, notebooks, again)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except Stopped as end:
        what = f" ({said})" if (said := str(end)) else ""
        print(f"\nStopped{what}. Nothing that was finished is lost; this goes on:\n  {again}", file=sys.stderr)
        return end.code
    except papermill.PapermillExecutionError as error:
        if error.ename != "SameFailures":
            raise
        print(f"\n{error.evalue}. What was read before is kept; this tries again:\n  {again}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(
            f"\n{ledger.no_room(error)}. What was there is whole; with more room, this goes on:\n  {again}",
            file=sys.stderr,
        )
        return 143


def reproduce(
    settings: list[str],
    model: str | None = None,
    quick: bool = False,
    notebooks: tuple[str, ...] = NOTEBOOKS,
    command: str = "",
) -> int:
    """Run notebooks in a folder of their own, and move what they wrote to its place once all are through.

    A run that was stopped or killed goes on: notebooks that were through are not run again, nor readings made again.
    Of one that is complete, the files are put back. Its state is in `ledger.run_folder`; what says *complete* is
    written last.

    Args:
        settings: NAME=VALUE of any notebook's parameters.
        model: the same as a setting model=…
        quick: few prompts and layers, into runs/quick/<model>/.
        notebooks: which, in their order.
        command: what the user typed, for `./runme.sh status`.

    Returns:
        The exit code: 0, or 3 if rows failed.

    Raises:
        InputError: before any weights load, whatever can be known by then.
        Stopped, Terminated: by a signal; by a full disk, or by the death of a notebook's process.
    """
    name, options, folder, parameters, defaults = _settle(settings, model, quick, notebooks)
    if len(notebooks) == 1:
        _places(notebooks[0], parameters[notebooks[0]], folder, folder)  # is there what it reads?
    _check_together(parameters)
    new = any(given.get("new") for given in parameters.values())
    fingerprint = _announce(name, options, parameters, folder, new or _was_new(run_folder(folder), command))
    check_writable(folder)

    started = time.monotonic()
    asked = [{k: {p: v for p, v in own.items() if p not in NOT_SHOWN} for k, own in parameters.items()}, fingerprint]
    with locked(run_folder(folder)):
        staging = run_folder(folder) / f"{STAGING}{_digest(asked)}"
        anew = new or (len(notebooks) == 1 and notebooks[0] in READ_RESULTS)
        about = {"command": command, "results": shown(folder), "code": _code_digest(asked), "new": new, "before": {}}
        about = _begin(staging, about, anew)
        if about["state"] == COMPLETE:
            print("Nothing is left to do; the files are put back (--new begins anew).")
        else:
            for number, notebook in enumerate(notebooks, start=1):
                through = (staging / "notebooks" / f"{notebook}.ipynb").is_file()
                again = ": through already" if through else ""
                print(f"[{number}/{len(notebooks)}] notebooks/{notebook}.ipynb{again}", flush=True)
                if not through:
                    places = _places(
                        notebook, parameters[notebook], staging, folder if len(notebooks) == 1 else staging
                    )
                    given = parameters[notebook] | places
                    if "new" in given:
                        given["new"] = about["new"] and _is_first_start(notebook, staging, about)
                    changed = {k: v for k, v in given.items() if v != defaults[notebook][k]}
                    run_notebook(notebook, changed, staging, folder)
        files = [path.relative_to(staging) for path in sorted(staging.rglob("*")) if path.is_file()]
        written = [path for path in files if path.name != STATE and not path.name.startswith(".")]  # not half ones
        failed = sum((_failed_rows(staging / path) for path in written), Counter())
        for path in written:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(folder / path, "wb") as file:
                file.write((staging / path).read_bytes())
        _write_state(staging, about | {"state": FAILED if any(failed[kind] for kind in AGAIN) else COMPLETE})
    print(f"Done in {(time.monotonic() - started) / 60:.1f} minutes. In {shown(folder)}/:")
    print("\n".join(f"  {path}" for path in written))
    for path in (path for path in written if path.suffix == ".json"):
        for sentence in json.loads((folder / path).read_text(encoding="utf-8")).get("verdict", []):
            print(sentence)
    if failed:
        again = "; the same command tries those again" if any(failed[kind] for kind in AGAIN) else ""
        print(f"{failed.total()} rows failed; the column `status` says which and why{again}.", file=sys.stderr)
    return 3 if failed else 0


def study(settings: list[str], command: str = "") -> int:
    """Every table and figure on each catalogue model that is here, and the effect by model size.

    A study that was stopped goes on: of a model that is through, the files are put back.

    Raises:
        InputError, Stopped, Terminated: as `reproduce`.
    """
    if own := [one for one in settings if one.startswith(("out_dir=", "model="))]:
        raise InputError("--study", own[0], "each model has its own folder, data/<model>/")
    models = [alias for alias in CATALOGUE if is_here(alias)]
    dtype = any(one.startswith("dtype=") for one in settings)
    given = {
        alias: settings if dtype or alias not in STUDY_DTYPES else [*settings, f"dtype={STUDY_DTYPES[alias]}"]
        for alias in models
    }
    print(f"{len(models)} of {len(CATALOGUE)} catalogue models are here: {', '.join(models)}")
    for alias in models:
        name, options, folder, parameters, _ = _settle(given[alias], alias, False, NOTEBOOKS + PAPER)
        _announce(name, options, parameters, folder, "new=true" in settings)
    codes = []
    for alias in models:
        print(f"\n== {alias}")
        codes.append(reproduce(given[alias], alias, False, NOTEBOOKS + PAPER, command))
    threshold = [one for one in settings if one.startswith("threshold=")]
    codes.append(reproduce(threshold, None, False, ("model_sizes",), command))
    if LEAD in models:
        as_jpeg(results_folder(LEAD) / "story_best.png", ROOT / "Superscopes.jpg")
    return max(codes)


def _settle(
    settings: list[str], model: str | None, quick: bool, notebooks: tuple[str, ...]
) -> tuple[str, dict, Path, dict[str, dict], dict[str, dict]]:
    """What a command means: the model's name and source options, its folder, each notebook's parameters and defaults."""
    for notebook in notebooks:
        if notebook not in NOTEBOOKS + ON_REQUEST:
            raise InputError("--only", notebook, f"expected one of {', '.join(NOTEBOOKS + ON_REQUEST)}")
    defaults = {name: read_parameters(name) for name in notebooks}
    given = parse_settings(settings, defaults)
    if model:
        given["model"] = as_path("model", model)
    parameters = {  # per notebook: what is given, or quick, or its own
        name: own | {k: v for k, v in ((QUICK if quick else {}) | given).items() if k in own}
        for name, own in defaults.items()
    }
    first = defaults[notebooks[0]]
    name = given.get("model") or first.get("model", notebooks[0])  # a notebook about all models stands for itself
    options = given.get("source_options", {})
    quick_folder = f"runs/quick/{slug(name, **options)}" if quick else ""
    return name, options, results_folder(name, given.get("out_dir") or quick_folder, **options), parameters, defaults


def _check_together(parameters: dict[str, dict]) -> None:
    """Whether the evaluations of a run can be compared with its controls: before anything is computed.

    Raises:
        InputError: a setting that only the evaluations have, or an amplifier that they lack.
    """
    compared = [given for name, given in parameters.items() if name in COMPARE]
    for name, given in parameters.items():
        if compared and name.endswith("_evaluation"):
            [plan] = plans_of(name, given)
            check_comparable(plan.describe(), compared[0]["max_new_tokens"])
            [component] = plan.components
            if missing := set(GRIDS[component]) - set(plan.amplifiers):
                why = f"lacks {sorted(missing)} for {component}; methods are compared on {GRIDS[component]}"
                raise InputError("amplifiers", list(plan.amplifiers), why)


def _places(notebook: str, parameters: dict, staging: Path, made_before: Path) -> dict:
    """Where a notebook finds the evaluations.

    Raises:
        InputError: no evaluations there.
    """
    places = {}
    if notebook in NEED_EVALUATIONS and not parameters["results"]:
        places["results"] = [str(path) for path in evaluations(made_before)]
    if notebook == "story" and not parameters["results"]:  # over all prompts, where they have been read
        files = [made_before / name for name in ("mlp_output.csv", "every_component.csv.gz")]
        places["results"] = [str(path) for path in files if all(one.is_file() for one in files)]
    return places


def _begin(staging: Path, about: dict, new: bool) -> dict:
    """The folder of one command's results, and its state: what an earlier run has left there, if it is of use.

    Args:
        about: what a state holds; of other code, with failed rows, or asked to begin anew, what is there is thrown
            away. Readings are not: they are in the ledgers.
    """
    state = staging / STATE
    there = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    if new or there.get("code") != about["code"] or there["state"] == FAILED:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(exist_ok=True)
        there = about | {"state": UNFINISHED}
        _write_state(staging, there)
    return there


def _is_first_start(notebook: str, staging: Path, about: dict) -> bool:
    """Whether a command that begins anew has not begun this notebook's ledger yet; one that was stopped goes on with it."""
    there = [folder.name for folder in ledger.ledgers(staging.parent / notebook.removesuffix("_evaluation"))]
    first = about["before"].setdefault(notebook, there) == there
    _write_state(staging, about)
    return first


def _was_new(run: Path, command: str) -> bool:
    """Whether this command was begun with --new, and stopped."""
    return any(one["new"] and one["command"] == command and one["state"] == UNFINISHED for one in ledger.states(run))


def _write_state(staging: Path, state: dict) -> None:
    with write_atomically(staging / STATE) as file:
        json.dump(state, file, indent=1)


def _digest(asked: object) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _code_digest(asked: object) -> str:
    """What a figure depends on beside its settings: the code, and the files that settings name."""
    digest = hashlib.sha256(json.dumps([ledger.versions(), version("sentence-transformers")]).encode())
    patterns = ("helpers/**/*.py", "notebooks/*.ipynb", "data/*.csv", "requirements.txt")
    ours = {path for pattern in patterns for path in ROOT.glob(pattern)}
    named = {Path(file) for text in _texts(asked) if os.path.isfile(file := ROOT / os.path.expanduser(text))}
    for path in sorted(ours | named):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _texts(asked: object) -> Iterator[str]:
    """All texts in some settings that could name a file."""
    if isinstance(asked, str):
        yield asked
    elif isinstance(asked, dict | list | tuple):
        for one in asked.values() if isinstance(asked, dict) else asked:
            yield from _texts(one)


def _announce(model: str, source_options: dict, parameters: dict[str, dict], folder: Path, new: bool) -> str:
    """Check the settings against the model, and say rows and minutes; of the notebooks that load one.

    Returns:
        The model's fingerprint, where its weights are here already.

    Raises:
        InputError: also where an earlier run has left readings with other settings, unfinished.
    """
    readers = {name: given for name, given in parameters.items() if "dtype" in given}
    if not readers:
        return ""
    plans = {name: plans_of(name, given) for name, given in readers.items()}  # before the slow imports
    print("checking the settings against the model …", flush=True)
    from .batches import check_batch_size
    from .models import check_hardware, read_model
    from .runs import check_workers

    for given in readers.values():
        check_batch_size(given["batch_size"] or None)
        check_workers(given.get("workers", 0))
        device = check_hardware(given["dtype"], given["device"])
    card = read_model(model, **source_options)
    rows = {name: sum(len(plan.items(card)) for plan in some) for name, some in plans.items()}
    try:
        fingerprint = card.source.fingerprint()
    except OSError:  # a hub model, fetched later, known by its name and revision
        fingerprint = ""
    there = 0
    for name, some in plans.items() if fingerprint and not new else ():
        place = run_folder(folder) / name.removesuffix("_evaluation")
        if begun := ledger.ledgers(place):
            attention = ledger.header_of(begun[0])["model"]["attention"]  # known for sure once it is loaded
            there += ledger.rows_in(
                ledger.find(place, ledger.header(some, card, fingerprint, given["dtype"], attention))
            )
    per_row = _seconds_per_row(card, given["dtype"], device, given["max_new_tokens"])
    minutes = ((sum(rows.values()) - there) * per_row + START_SECONDS * len(parameters)) / 60
    parts = " + ".join(f"{count:,} {name.removesuffix('_evaluation')}" for name, count in rows.items())
    total = f" = {sum(rows.values()):,}" if len(rows) > 2 else ""
    done = f" ({there:,} of them are there)" if there else ""
    about = f"about {max(1, round(minutes))} min on this {device.type}"
    print(f"{card.slug}: {parts}{total} interpretations{done}, {about}", flush=True)
    return card.source.commit or fingerprint  # of a hub model whose weights are fetched later: its revision


def _seconds_per_row(card, dtype: str, device, max_new_tokens: int) -> float:
    """An estimate: twice the time of a row's matrix products, from a short measurement of this machine."""
    import torch
    from transformers import AutoModelForCausalLM

    from .models import DTYPES

    with torch.device("meta"):
        code = card.source.options.trust_remote_code
        weights = AutoModelForCausalLM.from_config(card.config, trust_remote_code=code).num_parameters()
    a = torch.ones(256, card.width, dtype=DTYPES[dtype], device=device)
    b = torch.ones(card.width, 4 * card.width, dtype=DTYPES[dtype], device=device)
    times = []
    for _ in range(8):
        started = time.perf_counter()
        (a @ b).sum().item()
        times.append(time.perf_counter() - started)
    per_product = min(times) / (len(a) * b.numel())  # seconds per row and weight
    return 2 * per_product * weights * max_new_tokens


def _failed_rows(path: Path) -> Counter:
    """Status -> rows that don't say ok, as the JSON beside a table tells."""
    if path.suffix != ".json":
        return Counter()
    status = json.loads(path.read_text(encoding="utf-8")).get("status", {})
    return Counter({kind: count for kind, count in status.items() if kind != "ok"})


if __name__ == "__main__":
    sys.exit(main())
