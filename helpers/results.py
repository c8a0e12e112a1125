"""The files: prompts in; CSVs with the JSON of what made them out. Written atomically, read as text."""

import gzip
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from . import ROOT, InputError
from .components import COMPONENTS
from .plans import METHOD_VERSION, PAPER_TARGET_PROMPT, Plan

PAPER_COLUMNS = ["source prompt", "token", "layer", "amplification value", "result"]
GRID = [
    "component", "target layer", "target prompt", "seed", "source prompt", "position", "layer", "amplification value",
]  # fmt: skip


def slug(model: str, revision: str = "", adapter: str = "", quantization: str = "", **others) -> str:
    """A model's name as its folder of results is called: an alias, a folder's or file's name, owner--name.

    What makes another model of it (`sources.SourceOptions`) follows: llama@v2+lora-4bit.
    """
    path = Path(model.rpartition(":")[2] if model.endswith(".gguf") else model).expanduser()
    if path.suffix == ".gguf":
        name = path.stem
    else:
        name = path.resolve().name if path.is_dir() else model.replace("/", "--")
    parts = [
        name,
        revision and f"@{revision.replace('/', '--')}",
        adapter and f"+{Path(adapter).expanduser().resolve().name}",
    ]
    return "".join([*parts, quantization and f"-{quantization}"]).lower()


def results_folder(model: str, out_dir: str | Path = "", **source_options) -> Path:
    """Where a model's results go: `out_dir` (relative to the repository), or data/<model>/."""
    return ROOT / (Path(out_dir).expanduser() if out_dir else Path("data") / slug(model, **source_options))


def evaluations(folder: Path) -> list[Path]:
    """The evaluations' CSVs in a folder of results.

    Raises:
        InputError: there are none.
    """
    found = [folder / f"{component}.csv" for component in COMPONENTS if (folder / f"{component}.csv").is_file()]
    if not found:
        raise InputError("results", str(folder), "no evaluation here yet; run an evaluation notebook, or name CSVs")
    return found


def read_prompts(path: str | Path, num_prompts: int = 0) -> list[str]:
    """Source prompts from a CSV with a column `prompt`: the first `num_prompts`, or all (0).

    Raises:
        InputError: no such file or column, no prompts, or a blank one (with its row number).
    """
    file = ROOT / Path(path).expanduser()
    if not file.is_file():
        raise InputError("prompts", str(path), "no such file; expected a CSV with a column 'prompt'")
    try:
        table = pd.read_csv(file, keep_default_na=False, dtype=str, skip_blank_lines=False, encoding="utf-8-sig")
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError("prompts", str(path), f"not a CSV file ({error})") from error
    if "prompt" not in table:
        raise InputError("prompts", str(path), f"no column 'prompt'; its columns are {', '.join(table)}")
    if not isinstance(num_prompts, int) or num_prompts < 0:
        raise InputError("num_prompts", num_prompts, "expected a whole number; 0 is all")
    prompts = table["prompt"].tolist()
    if blank := [row for row, prompt in enumerate(prompts, start=1) if not prompt.strip()]:
        raise InputError("prompts", str(path), f"row {blank[0]} is blank")
    return prompts[: num_prompts or None]


def read_gold(path: str | Path, num_prompts: int = 0) -> dict[str, str]:
    """Prompt -> its true short description, from a CSV with the columns `prompt` and `gold`; {} without a `gold`.

    Raises:
        InputError: as `read_prompts`; a blank description.
    """
    return _read_beside(path, "gold", num_prompts) or {}


def read_categories(path: str | Path) -> dict[str, str]:
    """Prompt -> its category, from a CSV with the columns `prompt` and `category`.

    Raises:
        InputError: as `read_prompts`; no column `category`, or a blank one.
    """
    found = _read_beside(path, "category")
    if found is None:
        raise InputError("prompts", str(path), "no column 'category', by which chance is made")
    return found


def _read_beside(path: str | Path, column: str, num_prompts: int = 0) -> dict[str, str] | None:
    """Prompt -> what a column says of it; None if there is no such column."""
    prompts = read_prompts(path, num_prompts)
    table = pd.read_csv(ROOT / Path(path).expanduser(), keep_default_na=False, dtype=str, encoding="utf-8-sig")
    if column not in table:
        return None
    said = table[column].tolist()[: len(prompts)]
    if blank := [row for row, text in enumerate(said, start=1) if not text.strip()]:
        raise InputError("prompts", str(path), f"row {blank[0]} has no {column}")
    return dict(zip(prompts, said, strict=True))


def save_results(rows: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV (RFC 4180, UTF-8, \\n) and its `.attrs`, what made it, as JSON beside it; each at once.

    A path that ends in .gz is compressed; the same table gives the same bytes.
    """
    table = rows.copy()
    if "amplification value" in table:
        table["amplification value"] = [np.format_float_positional(a, trim="-") for a in table["amplification value"]]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(json_of(path)) as file:
        json.dump({**rows.attrs, "rows": len(rows), "status": _statuses(rows)}, file, indent=2, ensure_ascii=False)
        file.write("\n")
    text = table.to_csv(index=False, lineterminator="\n").encode()
    with write_atomically(path, "wb") as file:
        file.write(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def json_of(path: Path) -> Path:
    """The JSON beside a CSV."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".csv") + ".json")


def read_results(paths: str | Path | Sequence[str | Path], component: str = "mlp_output") -> pd.DataFrame:
    """Rows of one or more CSVs: ours, or five-column files as the paper's authors published them.

    Texts stay as they are ("NA" is a text; newlines and quotes survive). A file without a `component` column gets
    the one given; `.attrs["models"]` names the models that the JSONs beside the files tell of.

    Raises:
        InputError: no such file, not a CSV, a missing column, no rows, or two models of one name.
    """
    tables, models, fingerprints = [], [], {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        file = ROOT / Path(path).expanduser()
        if not file.is_file():
            raise InputError("results", str(path), "no such file")
        try:
            table = pd.read_csv(file, keep_default_na=False, na_values={c: [""] for c in ("score", "seed", "rho")})
        except (ValueError, pd.errors.ParserError) as error:
            raise InputError("results", str(path), f"not a CSV file ({error})") from error
        if missing := [column for column in PAPER_COLUMNS if column not in table]:
            raise InputError("results", str(path), f"misses {missing}; its columns are {', '.join(map(str, table))}")
        texts = ["source prompt", "token", "result"]
        table[texts] = pd.read_csv(file, keep_default_na=False, usecols=texts, dtype=str)[texts]
        if table["amplification value"].dtype == object or pd.api.types.is_string_dtype(table["amplification value"]):
            with suppress(ValueError):  # numbers beyond 64 bits
                table["amplification value"] = table["amplification value"].astype(float)
        if not pd.api.types.is_numeric_dtype(table["amplification value"]) or not len(table):
            raise InputError("results", str(path), "expected rows with a number as amplification value")
        if "component" not in table:
            table["component"] = component
        if (about := json_of(file)).is_file():
            if model := json.loads(about.read_text(encoding="utf-8")).get("model"):
                models.append(model["name"])
                if fingerprints.setdefault(model["name"], model["fingerprint"]) != model["fingerprint"]:
                    raise InputError("results", str(path), f"of another model {model['name']} than the files before it")
        tables.append(table)
    rows = pd.concat(tables, ignore_index=True)
    rows.attrs["models"] = list(dict.fromkeys(models))
    return rows


def read_evaluations(paths: str | Path | Sequence[str | Path], beside: dict) -> pd.DataFrame:
    """The rows of the two evaluations, to be compared with other readings of the same model, made in the same way.

    Args:
        beside: `.attrs` of those readings.

    Raises:
        InputError: no JSON beside a file; another model, dtype or version of the method; or as `check_comparable`.
    """
    plan = (beside.get("plans") or [beside["plan"]])[0]
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        file = json_of(ROOT / Path(path).expanduser())
        if not file.is_file():
            raise InputError("results", str(path), "has no JSON beside it that says what it was made with")
        about = json.loads(file.read_text(encoding="utf-8"))
        for key in ("fingerprint", "dtype", "attention"):
            if about["model"][key] != beside["model"][key]:
                why = (
                    f"made with {key}={about['model'][key]!r}, what it is compared with, with {beside['model'][key]!r}"
                )
                raise InputError("results", str(path), why)
        if about["method_version"] != METHOD_VERSION:
            raise InputError(
                "results", str(path), f"of version {about['method_version']} of the method, not {METHOD_VERSION}"
            )
        check_comparable(about["plan"], plan["max_new_tokens"])
    return read_results(paths)


def check_comparable(plan: dict, max_new_tokens: int) -> None:
    """Whether an evaluation can stand beside the controls, which read the last token, greedily, as the paper does.

    Args:
        plan: of the evaluation, as `Plan.describe` tells it.
        max_new_tokens: of the controls.

    Raises:
        InputError: names the setting.
    """
    [component] = plan["components"]
    wanted = {
        "token": [-1],
        "target_layer": {"mlp_output": ["same"], "hidden_state": [0]}.get(component),
        "decoding": "greedy",
        "max_new_tokens": max_new_tokens,
        "target_prompt": PAPER_TARGET_PROMPT,
    }
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in plan.items()}
    given["target_prompt"] = given["target_prompt"]["text"]
    for name, value in wanted.items():
        if given[name] != value:
            raise InputError(name, given[name], f"what {component} is compared with was read with {value!r}")


def check_grid(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gaps and repeats of a table of rows, per component: what is missing of prompt × layer × amplifier.

    Returns:
        gaps: grid points without a row; repeats: grid points with more than one, and how many.
    """
    keys = [column for column in GRID if column in rows]
    counted = rows.groupby(keys, dropna=False, sort=False).size().rename("rows").reset_index()
    gaps = []
    axes = ["source prompt", "layer", "amplification value"]
    for (component, _), part in rows.assign(patched=rows["amplification value"] != 1).groupby(
        ["component", "patched"], sort=False
    ):  # α = 1 may stand in a file, and on layers, of its own
        full = pd.MultiIndex.from_product([part[axis].unique() for axis in axes], names=axes)
        missing = full.difference(pd.MultiIndex.from_frame(part[axes]), sort=False)
        gaps.append(missing.to_frame(index=False).assign(component=component))
    return pd.concat(gaps, ignore_index=True), counted[counted["rows"] > 1].reset_index(drop=True)


def describe(lm, *plans: Plan) -> dict:
    """What makes the results of plans on a model, and where they were made: the JSON beside a CSV."""
    import torch

    from .scoring import judge_fingerprint

    options = lm.source.options
    used = {"gguf": lm.source.gguf_file, "peft": options.adapter, "bitsandbytes": options.quantization}
    extra = [package for package, for_it in used.items() if for_it]
    return {
        "method_version": METHOD_VERSION,
        "model": {
            "name": lm.slug,
            "fingerprint": lm.fingerprint,
            **_source(lm.source),
            "parameters": lm.model.num_parameters(),
            "layers": lm.num_layers,
            "width": lm.width,
            "dtype": lm.dtype,
            "attention": lm.attention,
        },
        **({"plan": plans[0].describe()} if len(plans) == 1 else {"plans": [plan.describe() for plan in plans]}),
        "judge": {"name": "all-MiniLM-L6-v2", "fingerprint": judge_fingerprint()},
        "machine": {"device": lm.device.type, "threads": torch.get_num_threads(), "python": platform.python_version()},
        "versions": {
            name: version(name) for name in ("torch", "transformers", "sentence-transformers", "pandas", *extra)
        },
    }


def _source(source) -> dict:
    """Where a model's weights come from, and what was done to them."""
    from .dequantised import types_in
    from .sources import digest_of_folder

    about = {"gguf_file": source.gguf_file}
    if source.gguf_file:
        about["weights"] = "dequantised"
        about["dequantised_from"] = types_in(source.folder / source.gguf_file)
    if source.commit:
        about["commit"] = source.commit
    given = source.options.given
    if adapter := given.pop("adapter", ""):
        folder = Path(adapter).expanduser()
        about["adapter"] = {"name": folder.resolve().name, "fingerprint": digest_of_folder(folder)[:16]}
    return about | {name: value if isinstance(value, str | bool) else str(value) for name, value in given.items()}


def check_writable(folder: Path) -> None:
    """Make a folder, and see whether it takes files.

    Raises:
        InputError: it doesn't, or it is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError("out_dir", str(folder), f"can't be written ({error.strerror})") from error


@contextmanager
def write_atomically(path: Path, mode: str = "w") -> Iterator:
    """A file that appears under its name when it is whole, or not at all."""
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _statuses(rows: pd.DataFrame) -> dict[str, int]:
    return rows["status"].value_counts().to_dict() if "status" in rows else {}
