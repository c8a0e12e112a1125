"""Patchscopes' attribute tasks: "The capital city of x", with the vector of a country in running text as x."""

import csv
from collections import Counter
from pathlib import Path

from .. import InputError
from ..words.target import TargetPrompt
from .rules import contains
from .tasks import Case, Repository, Task

NAME, RULE, COMBINE = "patchscopes", contains, any
BY_LENS = False
REPOSITORY = Repository(
    "PAIR-code/interpretability", "patchscopes/code/preprocessed_data", "*.tsv", "Patchscopes' attribute tasks"
)
COLUMNS = ("prompt_target", "position_target", "object", "subject", "prompt_source")
QUESTION = "does the continuation say the attribute of the subject?"
# Llama-3.1-8B-Instruct, all rows; Patchscopes: any of 31 target layers, mean of 15 source layers.
PUBLISHED = {
    "country_currency": (0.820, 0.406),
    "food_from_country": (0.591, 0.274),
    "person_plays_position_in_sport": (0.585, 0.547),
    "product_by_company": (0.671, 0.449),
    "star_constellation": (0.440, 0.380),
    "six tasks together": (0.644, 0.487),
}
PUBLISHED_BY = "millicentli/verb_faithfulness, Llama-3.1-8B-Instruct"


def tasks(folder: Path, settings, card) -> list[Task]:
    """Read a task per file.

    The source prompt ends with the subject, whose last token is read: what follows doesn't change its vector. Rows
    whose prompt doesn't hold the subject are left out; where the prompt is empty, the subject is the source prompt.

    Raises:
        InputError: no files, no such column, a row without an answer, several target prompts in a file.
    """
    return [_read(file) for file in REPOSITORY.files(NAME, folder)]


def _read(file: Path) -> Task:
    rows = _rows(file)
    prompts = {(row["prompt_target"], row["position_target"]) for row in rows}
    if len(prompts) != 1:
        raise InputError(NAME, str(file), f"{len(prompts)} target prompts; expected the same in all rows")
    [(text, position)] = prompts
    try:
        asks = TargetPrompt(text, int(position), name=file.stem)
    except ValueError:
        raise InputError(NAME, str(file), f"position_target is {position!r}, not a number") from None
    if asks.placeholder != -1:
        raise InputError(NAME, str(file), f"position_target is {position}; expected -1, the last token")
    start = text[: len(text.rstrip()) - len(text.split()[-1])]
    cases, left_out = {}, Counter()
    for row in rows:
        subject, prompt = row["subject"], row["prompt_source"]
        end = prompt.find(subject)
        if prompt and end < 0:
            left_out["the prompt doesn't hold the subject"] += 1
            continue
        source = prompt[: end + len(subject)] if prompt else subject
        unit = f"{subject} → {row['object']}"
        case = Case(unit, source, subject, (row["object"],), start + subject, (row["object"],))
        if case in cases:
            left_out["the same row again"] += 1
        cases[case] = None
    return Task(file.stem, tuple(cases), asks, dict(left_out))


def _rows(file: Path) -> list[dict[str, str]]:
    csv.field_size_limit(1 << 30)
    with open(file, encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t")
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            has = ", ".join(filter(None, reader.fieldnames or ()))
            raise InputError(NAME, str(file), f"no column {', '.join(missing)}; its columns are {has}")
        rows = list(reader)
    if not rows:
        raise InputError(NAME, str(file), "no rows")
    for number, row in enumerate(rows, start=1):
        for name in ("object", "subject", "prompt_target"):
            if not (row[name] or "").strip():
                raise InputError(NAME, str(file), f"row {number} has no {name}")
    return [{name: row[name] or "" for name in COLUMNS} for row in rows]
