"""What the numbers are made with: their register, the files they come from, and how they are written."""

import json
from collections.abc import Callable

import pandas as pd

from ... import ROOT

NUMBERS: dict[str, Callable[[], str]] = {}  # name in a marker -> what makes its text


def number(function: Callable[[], str]) -> Callable[[], str]:
    """Register a function under its name."""
    NUMBERS[function.__name__] = function
    return function


def about(model: str, name: str) -> dict:
    """Read the JSON of one of a model's results."""
    return json.loads((ROOT / "data" / model / f"{name}.json").read_text(encoding="utf-8"))


def table_of(model: str, name: str, **options) -> pd.DataFrame:
    """Read one of a model's tables."""
    return pd.read_csv(ROOT / "data" / model / f"{name}.csv", keep_default_na=False, **options)


def measured(name: str) -> pd.DataFrame:
    """Read a table of benchmarks/results/."""
    return pd.read_csv(ROOT / "benchmarks" / "results" / f"{name}.csv")


def listed(names: list[str]) -> str:
    """List names in a sentence; "none" if there are none."""
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else "none"


def in_words(count: int) -> str:
    """Write a small number as a word."""
    return dict(enumerate(("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))).get(count, str(count))


def rows_of(header: list[str], rows: list[list[str]]) -> str:
    """Lay out a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("".join(f"| {cell} " if cell else "| " for cell in line).replace("\n", " ") + "|" for line in lines)
