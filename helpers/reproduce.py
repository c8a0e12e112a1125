"""The notebooks of the paper through papermill: check every setting, run, publish what is complete."""

import argparse
import ast
import base64
import difflib
import fcntl
import hashlib
import inspect
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import nbformat
import papermill

from . import ROOT, InputError
from .catalogue import CATALOGUE, is_here
from .decoding import sampling
from .experiments import EXPERIMENTS, GRIDS
from .plans import Plan, make_plan
from .plots.style import as_jpeg, with_palette
from .results import check_comparable, evaluations, read_prompts, results_folder, slug, write_atomically
from .sources import SourceOptions

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
COMPARE = ("before_context", "every_component", "amplification_or_tries")  # evaluations with readings of their own
FIXED = {"can_it_speak": {"components": "hidden_state", "amplifiers": 1, "target_layer": 0}}  # not its parameters
QUICK = {"num_prompts": 8, "layers": "1,4,7"}
STUDY_DTYPES = {"qwen2.5-coder-0.5b": "bfloat16", "qwen2.5-coder-1.5b": "bfloat16"}  # float32 would take hours
LEAD = "qwen2.5-coder-1.5b"  # the model on which the effect is clearest: its best story is Superscopes.jpg
TEXT_TOO = ("token", "target_layer")  # parameters that take a number or a text
SOURCE = {field.name: field.default for field in fields(SourceOptions)}  # names that go into source_options
START_SECONDS = 20  # of a notebook: its kernel, the imports, the models


def main(arguments: list[str] | None = None) -> int:
    """The command line; see `./runme.sh help`. Returns the exit code: 0 done, 2 bad input, 3 rows that failed."""
    parser = argparse.ArgumentParser("runme.sh reproduce", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--model", help="of the catalogue (./runme.sh models), a folder, a .gguf file, a hub id owner/name"
    )
    parser.add_argument("--quick", action="store_true", help="few prompts and layers, into runs/quick/<model>/")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", metavar="NOTEBOOK", help=f"one of {', '.join(NOTEBOOKS + ON_REQUEST)}")
    which.add_argument("--all", action="store_true", help="every table and figure of the paper, with its controls")
    which.add_argument("--study", action="store_true", help="--all on every catalogue model that is here, and by size")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="any parameter of the notebooks")
    options = parser.parse_intermixed_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        if options.study:
            if options.model or options.quick:
                raise InputError("--study", "--model" if options.model else "--quick", "goes with neither")
            return study(options.settings)
        notebooks = (options.only,) if options.only else NOTEBOOKS + PAPER if options.all else NOTEBOOKS
        return reproduce(options.settings, options.model, options.quick, notebooks)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Nothing in the results was changed; the same command goes on from here.", file=sys.stderr)
        return 130


def reproduce(
    settings: list[str], model: str | None = None, quick: bool = False, notebooks: tuple[str, ...] = NOTEBOOKS
) -> int:
    """Run notebooks in a folder of their own, and move what they wrote to its place once all are through.

    A run that was stopped goes on: the notebooks that were through are not run again, nor readings made again that
    were complete.

    Args:
        settings: NAME=VALUE of any notebook's parameters.
        model: the same as a setting model=…
        quick: few prompts and layers, into runs/quick/<model>/.
        notebooks: which, in their order.

    Raises:
        InputError: before any weights load, whatever can be known by then.
    """
    name, options, folder, parameters, defaults = _settle(settings, model, quick, notebooks)
    if len(notebooks) == 1:
        _places(notebooks[0], parameters[notebooks[0]], folder, folder)  # is there what it reads?
    _check_together(parameters)
    fingerprint = _announce(name, options, parameters)
    _check_writable(folder)

    started = time.monotonic()
    with _staging(slug(name, **options), [parameters, _shown(folder), fingerprint]) as staging:
        for number, notebook in enumerate(notebooks, start=1):
            through = (staging / "notebooks" / f"{notebook}.ipynb").is_file()
            again = ": through already" if through else ""
            print(f"[{number}/{len(notebooks)}] notebooks/{notebook}.ipynb{again}", flush=True)
            if not through:
                given = parameters[notebook] | _places(
                    notebook, parameters[notebook], staging, folder if len(notebooks) == 1 else staging
                )
                changed = {k: v for k, v in given.items() if v != defaults[notebook][k]}
                run_notebook(notebook, changed, staging, folder)
        written = [path.relative_to(staging) for path in sorted(staging.rglob("*")) if path.is_file()]
        failed = sum(_failed_rows(staging / path) for path in written)
        for path in written:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(folder / path, "wb") as file:
                file.write((staging / path).read_bytes())
    print(f"Done in {(time.monotonic() - started) / 60:.1f} minutes. In {_shown(folder)}/:")
    print("\n".join(f"  {path}" for path in written))
    for path in (path for path in written if path.suffix == ".json"):
        for sentence in json.loads((folder / path).read_text(encoding="utf-8")).get("verdict", []):
            print(sentence)
    if failed:
        print(f"{failed} rows failed; the column `status` says which and why.", file=sys.stderr)
    return 3 if failed else 0


def study(settings: list[str]) -> int:
    """Every table and figure on each catalogue model that is here, and the effect by model size.

    A study that was stopped goes on with the model at which it was.

    Raises:
        InputError: as `reproduce`.
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
        name, options, _, parameters, _ = _settle(given[alias], alias, False, NOTEBOOKS + PAPER)
        _announce(name, options, parameters)
    through = ROOT / "runs" / f"study-{_digest(given)}.json"
    codes = json.loads(through.read_text()) if through.is_file() else {}
    for alias in models:
        print(f"\n== {alias}" + (": through already" if alias in codes else ""))
        if alias not in codes:
            codes[alias] = reproduce(given[alias], alias, False, NOTEBOOKS + PAPER)
            with write_atomically(through) as file:
                json.dump(codes, file)
    threshold = [one for one in settings if one.startswith("threshold=")]
    codes["model_sizes"] = reproduce(threshold, None, False, ("model_sizes",))
    if LEAD in models:
        as_jpeg(results_folder(LEAD) / "story_best.png", ROOT / "Superscopes.jpg")
    through.unlink()
    return max(codes.values())


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
        given["model"] = _as_path("model", model)
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
    """Where a notebook finds the evaluations, and readings that a stopped run had finished.

    Raises:
        InputError: no evaluations there.
    """
    places = {}
    if notebook in NEED_EVALUATIONS and not parameters["results"]:
        places["results"] = [str(path) for path in evaluations(made_before)]
    if notebook == "story" and not parameters["results"]:  # over all prompts, where they have been read
        files = [made_before / name for name in ("mlp_output.csv", "every_component.csv.gz")]
        places["results"] = [str(path) for path in files if all(one.is_file() for one in files)]
    if "reuse" in parameters and not parameters["reuse"]:
        places["reuse"] = str(staging)
    return places


@contextmanager
def _staging(name: str, settings: object) -> Iterator[Path]:
    """A folder for one command's results, kept if it is stopped, so that the same command finds it again.

    Raises:
        InputError: the same command is running.
    """
    folder = ROOT / "runs" / f"{name}-{_digest(settings)}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(folder.suffix + ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("reproduce", name, "the same command is running already") from None
        try:
            yield folder
        except BaseException:
            if not any(folder.iterdir()):
                folder.rmdir()
            Path(lock.name).unlink()
            raise
        shutil.rmtree(folder)
        Path(lock.name).unlink()


def _digest(settings: object) -> str:
    """What a run depends on: its settings, the model, the code, and the files that settings name."""
    text = json.dumps(settings, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    named = {ROOT / Path(word).expanduser() for word in re.findall(r'"([^"]+\.(?:csv|gz))"', text)}
    ours = (
        ROOT.glob(pattern) for pattern in ("helpers/**/*.py", "notebooks/*.ipynb", "data/*.csv", "requirements.txt")
    )
    for path in sorted({path for some in ours for path in some} | {path for path in named if path.is_file()}):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def run_notebook(notebook: str, parameters: dict, staging: Path, folder: Path) -> None:
    """Execute one notebook, its results and its executed copy into `staging`; the copy names `folder` instead."""
    out_dir = str(staging)
    given = parameters | {"out_dir": out_dir}
    source = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)
    # The kernel is this Python, whatever other "python3" the user's Jupyter knows.
    own = f"{sys.prefix}/share/jupyter"
    os.environ["JUPYTER_PATH"] = os.pathsep.join([own, *filter(None, [os.environ.get("JUPYTER_PATH")])])
    os.environ.setdefault("TQDM_MININTERVAL", "0.5" if sys.stderr.isatty() else "10")
    try:
        executed = papermill.execute_notebook(
            source, None, given, kernel_name="python3", progress_bar=False, stderr_file=sys.stderr, cwd=ROOT,
            extra_arguments=["--log-level=CRITICAL"],  # of the kernel's own log; errors in cells come as messages
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        if error.ename == "InputError":
            raise _already_said(error.evalue) from None
        raise
    target = staging / "notebooks" / f"{notebook}.ipynb"
    target.parent.mkdir(exist_ok=True)
    with write_atomically(target) as file:  # it says that the notebook is through
        nbformat.write(_for_readers(executed, out_dir, _shown(folder)), file)


def read_parameters(notebook: str) -> dict:
    """Names and defaults of a notebook's parameters cell: literals, one assignment a line."""
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    source = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    return {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(source).body}


def parse_settings(settings: list[str], defaults: dict[str, dict]) -> dict:
    """NAME=VALUE texts as values of the kind that the notebooks' defaults have.

    Raises:
        InputError: not of that form, an unknown name (the known ones are listed), or another kind of value.
    """
    known = {name: value for parameters in defaults.values() for name, value in parameters.items()} | SOURCE
    known = {name: value for name, value in known.items() if not isinstance(value, dict)}  # by their own names, or not
    given = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError("setting", setting, "expected NAME=VALUE")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError("setting", name, f"unknown; {hint}known: {', '.join(known)}")
        if name in SOURCE:
            given.setdefault("source_options", {})[name] = _parse(name, text, known[name])
        else:
            given[name] = _parse(name, text, known[name])
    SourceOptions.of(given.get("source_options", {}))
    return given


def plans_of(notebook: str, parameters: dict) -> list[Plan]:
    """The plans that a notebook makes of its parameters, which bear the names of the experiment's, or of make_plan's."""
    make = EXPERIMENTS.get(notebook, make_plan)
    given = {name: parameters[name] for name in inspect.signature(make).parameters if name in parameters}
    given["max_new_tokens"] = parameters["max_new_tokens"]
    if "prompts" in given:
        given["prompts"] = read_prompts(parameters["prompts"], parameters.get("num_prompts", 0))
        given["prompts"] = given["prompts"][:: parameters.get("every", 1)]
    if notebook in EXPERIMENTS:
        return make(**given)
    given |= {  # one of the evaluations, or can_it_speak
        "components": notebook.removesuffix("_evaluation"),
        "target_prompt": parameters["target_prompt"] or None,
        "decoding": sampling(parameters.get("temperature", 0), parameters.get("top_p", 1)),
    }
    return [make_plan(**given | FIXED.get(notebook, {}))]


def _announce(model: str, source_options: dict, parameters: dict[str, dict]) -> str:
    """Check the settings against the model, and say rows and minutes; of the notebooks that load one.

    Returns:
        The model's fingerprint, where its weights are here already.
    """
    readers = {name: given for name, given in parameters.items() if "dtype" in given}
    if not readers:
        return ""
    plans = {name: plans_of(name, given) for name, given in readers.items()}  # before the slow imports
    print("checking the settings against the model …", flush=True)
    from .batches import check_batch_size
    from .models import check_hardware, read_model

    for given in readers.values():
        check_batch_size(given["batch_size"] or None)
        device = check_hardware(given["dtype"], given["device"])
    card = read_model(model, **source_options)
    rows = {name: sum(len(plan.items(card)) for plan in some) for name, some in plans.items()}
    per_row = _seconds_per_row(card, given["dtype"], device, given["max_new_tokens"])
    minutes = (sum(rows.values()) * per_row + START_SECONDS * len(parameters)) / 60
    parts = " + ".join(f"{count:,} {name.removesuffix('_evaluation')}" for name, count in rows.items())
    total = f" = {sum(rows.values()):,}" if len(rows) > 2 else ""
    about = f"about {max(1, round(minutes))} min on this {device.type}"
    print(f"{card.slug}: {parts}{total} interpretations, {about}", flush=True)
    try:
        return card.source.fingerprint()
    except OSError:  # a hub model, fetched later, known by its name and revision
        return ""


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


def _parse(name: str, text: str, default: object) -> object:
    """One value; numbers are plain ones (not nan, 1_000 or 007), lists are separated by commas."""
    if isinstance(default, list):
        text = text.strip()
        text = text[1:-1] if text.startswith("[") and text.endswith("]") else text  # mlp_sum[1-3] ends in one, too
        items = [item.strip() for item in text.split(",")]
        return [_as_path(name, _number_or_text(item)) for item in items if item]
    if name in TEXT_TOO:
        return _number_or_text(text)
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise InputError(name, text, "expected true or false")
        return text.lower() == "true"
    if isinstance(default, str):
        return _as_path(name, text)
    value = _number_or_text(text)
    if not isinstance(value, (int, type(default))):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise InputError(name, text, f"expected {kind}, like {default}")
    return value


def _number_or_text(text: str) -> int | float | str:
    if re.fullmatch(r"[+-]?(0|[1-9]\d*)", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=e))(e[+-]?\d+)?", text, re.IGNORECASE):
        return float(text)
    return text.strip("\"'") if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _as_path(name: str, value: object) -> object:
    """A file or folder that exists from where the user stands, made absolute; anything else as it is."""
    path = Path(str(value)).expanduser()
    named = name in ("prompts", "results", "reuse", "folders", "adapter") or (
        name == "model" and value not in CATALOGUE
    )
    return str(path.absolute()) if named and path.exists() else value


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError("out_dir", str(folder), f"can't be written ({error.strerror})") from error


def _for_readers(notebook: nbformat.NotebookNode, staging: str, folder: str) -> nbformat.NotebookNode:
    """An executed notebook without progress bars, timings and this machine's paths."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):  # where readings came from changes none of them
            cell.source = re.sub(r'^reuse = ".*"\n', "", cell.source, flags=re.M)
        cell.source = cell.source.replace(staging, folder)
        cell.source = cell.source.replace(f"{ROOT}/", "")
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "given"  # else a new random one in every run
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for shown in (output.data for output in cell.outputs if "image/png" in output.get("data", {})):
                shown["image/png"] = base64.b64encode(with_palette(base64.b64decode(shown["image/png"]))).decode()
    return notebook


def _failed_rows(path: Path) -> int:
    if path.suffix != ".json":
        return 0
    status = json.loads(path.read_text(encoding="utf-8")).get("status", {})
    return sum(count for kind, count in status.items() if kind != "ok")


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _already_said(message: str) -> InputError:
    """An InputError of a notebook, raised again here."""
    error = InputError.__new__(InputError)
    ValueError.__init__(error, message)
    return error


def _stop(signum, frame):
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main())
