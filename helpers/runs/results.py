"""Results: CSVs of rows, and beside each the JSON of what made it. Written whole or not at all, read as text."""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import InputError
from ..words.components import COMPONENTS
from ..words.files import in_repository, json_of, write_atomically
from ..words.plans import METHOD_VERSION, check_comparable
from ..words.rows import LATER, MAY_LACK, PAPER_COLUMNS, SCHEMA
from ..words.target import TargetPrompt

FIRST_ITEM = "first item"  # a column that rows in memory have, and no CSV
AMPLIFIER = "amplification value"
DTYPES = {"text": "str", "int": "int64", "number": "float64", "float": "float64"}  # of a column's type
COLUMN_DTYPES = {column.name: DTYPES[column.type] for column in SCHEMA} | {"seed": "Int64"}  # which may be empty
READ_DTYPES = COLUMN_DTYPES | {column.name: DTYPES[column.type] for column in LATER}  # which a file may have, too
OF_FILE = ("rows", "status", "csv")  # what the JSON says about its CSV; the rest is in the rows' `.attrs`


class Table(NamedTuple):
    """A CSV of rows, as it was read.

    Attributes:
        rows: with the column `first item`.
        about: the JSON beside it; {} if there is none.
        digest: of the CSV's bytes, as the JSON has it under `csv`.
    """

    rows: pd.DataFrame
    about: dict
    digest: str

    @property
    def attrs(self) -> dict:
        """Return what made the rows, as `.attrs` of rows that were just read from the model."""
        return {name: value for name, value in self.about.items() if name not in OF_FILE}


def save_results(rows: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV (RFC 4180, UTF-8, \\n), and its `.attrs`, what made it, as JSON beside it; each whole.

    A path that ends in .gz is compressed; the same table gives the same bytes.
    """
    table = rows.drop(columns=FIRST_ITEM, errors="ignore")
    table = table.drop(columns=[name for name in MAY_LACK if name in table and (table[name] == "").all()])
    if AMPLIFIER in table:
        table[AMPLIFIER] = [np.format_float_positional(value, trim="-") for value in table[AMPLIFIER]]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = _Lines()
    table.to_csv(lines, index=False, lineterminator=_Lines.END)
    content = lines.getvalue().encode()
    content = gzip.compress(content, mtime=0) if path.suffix == ".gz" else content
    statuses = rows["status"].value_counts().to_dict() if "status" in rows else {}
    about = {**rows.attrs, "rows": len(rows), "status": statuses, "csv": digest_of(content)}
    with write_atomically(json_of(path)) as file:
        json.dump(about, file, indent=2, ensure_ascii=False)
        file.write("\n")
    with write_atomically(path, "wb") as file:
        file.write(content)


class _Lines(io.StringIO):
    """Lines of a CSV that end in \\n. Python's writer quotes a text for a character of the line's end alone, and a text
    with an \\r that isn't quoted can't be read again.
    """

    END = "\n\r"

    def write(self, line: str) -> int:
        return super().write(line.removesuffix(self.END) + "\n" if line.endswith(self.END) else line)


def digest_of(content: bytes) -> str:
    """Return SHA-256 of a file's bytes, 16 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:16]


def read_about(path: Path) -> dict:
    """Read the JSON beside a CSV; {} if there is none."""
    file = json_of(path)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def read_table(path: str | Path, component: str = "mlp_output") -> Table:
    """Read a CSV: ours, or a five-column file as the paper's authors published them.

    Texts stay as they are: "NA" is a text, and newlines and quotes survive.

    Args:
        component: of a file without such a column.

    Raises:
        InputError: no such file, not a CSV, a missing column, or no rows.
    """
    file = in_repository(path)
    if not file.is_file():
        raise InputError("results", str(path), "no such file")
    content = file.read_bytes()
    digest = digest_of(content)
    may_be_empty = [name for name, dtype in READ_DTYPES.items() if dtype in ("float64", "Int64")]
    try:
        rows = pd.read_csv(
            io.BytesIO(gzip.decompress(content) if file.suffix == ".gz" else content),
            keep_default_na=False, na_values={name: [""] for name in may_be_empty if name != AMPLIFIER},
            dtype={name: dtype for name, dtype in READ_DTYPES.items() if dtype in ("str", "Int64")},
        )  # fmt: skip
    except (ValueError, EOFError, OSError, zlib.error, pd.errors.ParserError) as error:
        raise InputError("results", str(path), f"not a CSV file ({error})") from error
    if missing := [column for column in PAPER_COLUMNS if column not in rows]:
        raise InputError("results", str(path), f"lacks {missing}; its columns are {', '.join(map(str, rows))}")
    try:
        rows[AMPLIFIER] = rows[AMPLIFIER].astype(float)
    except ValueError:
        rows = rows[:0]
    if not len(rows):
        raise InputError("results", str(path), "expected rows with a number as amplification value")
    if "component" not in rows:
        rows["component"] = component
    if "id" in rows:  # ours
        for name in (name for name in MAY_LACK if name not in rows):
            rows.insert(min(list(COLUMN_DTYPES).index(name), rows.shape[1]), name, pd.array([""] * len(rows), "str"))
    about = read_about(file)
    rows[FIRST_ITEM] = _first_items(rows, about)
    return Table(rows, about, digest)


def _first_items(rows: pd.DataFrame, about: dict) -> list[str]:
    """Cut each result where its own target prompt ends an item; at the paper's separator, where nothing is known.

    A prompt whose placeholders a model's tokens locate has another name in the rows than in the plan: where all plans
    have the same separator, it is the rows', whatever their names.
    """
    plans = about.get("plans") or [about[key] for key in ("plan",) if key in about]
    stops = {plan["target_prompt"]["name"]: plan["target_prompt"]["stop"] for plan in plans}
    prompts = {name: TargetPrompt(stop=stop) for name, stop in stops.items()}
    names = rows.get("target prompt", [""] * len(rows))
    usual = next(iter(prompts.values())) if len({*stops.values()}) == 1 else TargetPrompt()
    return [prompts.get(name, usual).first_item(text) for name, text in zip(names, rows["result"], strict=True)]


def read_results(paths: str | Path | Sequence[str | Path], component: str = "mlp_output") -> pd.DataFrame:
    """Read the rows of one or more CSVs; see `read_table`.

    Returns:
        All rows, with the in-memory column `first item`; `.attrs["models"]` names the models that the JSONs tell of.

    Raises:
        InputError: as `read_table`; or two models of the same name.
    """
    tables, fingerprints = [], {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        table = read_table(path, component)
        if isinstance(model := table.about.get("model"), dict):  # elsewhere, a name
            if fingerprints.setdefault(model["name"], model["fingerprint"]) != model["fingerprint"]:
                raise InputError("results", str(path), f"of another model {model['name']} than the files before it")
        tables.append(table.rows)
    rows = pd.concat(tables, ignore_index=True)
    rows.attrs["models"] = list(fingerprints)
    return rows


def evaluations(folder: Path) -> list[Path]:
    """Return the evaluations' CSVs in a folder of results.

    Raises:
        InputError: there are none.
    """
    found = [folder / f"{component}.csv" for component in COMPONENTS if (folder / f"{component}.csv").is_file()]
    if not found:
        raise InputError("results", str(folder), "no evaluation here yet; run an evaluation notebook, or name CSVs")
    return found


def _is_of_one_component(about: dict) -> bool:
    """Tell whether the JSON beside a CSV is of readings of prompts, of one plan and component."""
    plan = about.get("plan", {})
    return isinstance(about.get("model"), dict) and "token" in plan and len(plan["components"]) == 1


def read_evaluations(paths: str | Path | Sequence[str | Path], beside: dict) -> pd.DataFrame:
    """Read the rows of the evaluations, to compare them with other readings of the same model, made in the same way.

    Args:
        beside: `.attrs` of the other readings.

    Raises:
        InputError: no JSON of one component's readings beside a file; another model, dtype or version of the method; or as
            `check_comparable`.
    """
    plan = (beside.get("plans") or [beside["plan"]])[0]
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        about = read_about(in_repository(path))
        if not about:
            raise InputError("results", str(path), "has no JSON beside it that says what it was made with")
        if not _is_of_one_component(about):
            raise InputError("results", str(path), "expected readings of one component of prompts, as an evaluation's are")
        for key in ("fingerprint", "dtype", "attention"):
            if (made_with := about["model"][key]) != (wanted := beside["model"][key]):
                why = f"made with {key}={made_with!r}, what it is compared with, with {wanted!r}"
                raise InputError("results", str(path), why)
        if about["method_version"] != METHOD_VERSION:
            why = f"of version {about['method_version']} of the method, not {METHOD_VERSION}"
            raise InputError("results", str(path), why)
        check_comparable(about["plan"], plan["max_new_tokens"])
    return read_results(paths)
