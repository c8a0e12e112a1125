"""The prompt files: CSVs with a column `prompt`, and `gold` and `category` where they are known; or files of chats."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from .. import InputError
from . import chats
from .files import in_repository
from .grammar import is_whole

OUR_PROMPTS = "data/prompts.csv"  # the paper's 48; references, where no others are given
LEAST_REFERENCES = 10  # other prompts, where something is compared with them


def read_prompts(
    path: str | Path, num_prompts: int = 0, parameter: str = "prompts", column: str = "prompt"
) -> list[str]:
    """Read source prompts from a column of a CSV, or the chats of a file (`words.chats`): the first `num_prompts`, or
    all (0).

    Args:
        parameter: that names the file, for errors.

    Raises:
        InputError: no such file or column, no prompts, or a blank one (with its row number).
    """
    columns = _read_columns(path, parameter, column)
    if not is_whole(num_prompts) or num_prompts < 0:
        raise InputError("num_prompts", num_prompts, "expected a whole number; 0 is all")
    prompts = columns[column]
    if not prompts:
        raise InputError(parameter, str(path), f"no prompts under its column {column!r}")
    if blank := [row for row, prompt in enumerate(prompts, start=1) if not prompt.strip()]:
        raise InputError(parameter, str(path), f"row {blank[0]} is blank")
    return prompts[: num_prompts or None]


def read_gold(path: str | Path, num_prompts: int = 0) -> dict[str, str]:
    """Read each prompt's true short description (column `gold`); {} where the file has none.

    Raises:
        InputError: as `read_prompts`; a blank description.
    """
    return _read_beside(path, "gold", num_prompts) or {}


def read_categories(path: str | Path) -> dict[str, str]:
    """Read each prompt's category (column `category`); {} if there is no such column.

    Raises:
        InputError: as `read_prompts`; a blank category.
    """
    return _read_beside(path, "category") or {}


def other_prompts(prompt: str, prompts: Sequence[str]) -> list[str]:
    """Return the prompts that are not this one, whatever its case and spaces."""
    same = " ".join(prompt.lower().split())
    return [other for other in prompts if " ".join(other.lower().split()) != same]


def _read_beside(path: str | Path, column: str, num_prompts: int = 0) -> dict[str, str] | None:
    """Map each prompt to what a column says of it; None if there is no such column."""
    prompts, columns = read_prompts(path, num_prompts), _read_columns(path)
    if column not in columns:
        return None
    values = columns[column][: len(prompts)]
    if blank := [row for row, text in enumerate(values, start=1) if not text.strip()]:
        raise InputError("prompts", str(path), f"row {blank[0]} has no {column}")
    return dict(zip(prompts, values, strict=True))


def _read_columns(path: str | Path, parameter: str = "prompts", column: str = "prompt") -> dict[str, list[str]]:
    file = in_repository(path)
    if file.suffix.lower() in chats.SUFFIXES:
        return {column: chats.read_chats(path, parameter)}
    if not os.path.isfile(file):  # not `file.is_file`: it raises for long texts
        raise InputError(parameter, str(path), f"no such file; expected a CSV with a column {column!r}")
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            names, *rows = list(csv.reader(lines, strict=True)) or [[]]
    except (ValueError, csv.Error) as error:
        raise InputError(parameter, str(path), f"not a CSV file ({error})") from error
    if column not in names:
        raise InputError(parameter, str(path), f"no column {column!r}; its columns are {', '.join(names)}")
    if odd := [number for number, row in enumerate(rows, start=1) if len(row) > len(names)]:
        raise InputError(parameter, str(path), f"not a CSV file (row {odd[0]} has more fields than there are columns)")
    return {
        name: [row[place] if place < len(row) else "" for row in rows] for place, name in enumerate(names)
    }
