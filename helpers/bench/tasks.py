"""What a benchmark consists of: cases with known answers, in tasks; and the folders that they are read from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .. import InputError
from ..words.target import TargetPrompt

LEAST_CASES = 10  # that a task needs
LEAST_UNITS = 4  # that an interval needs
ROWS = ("usable", "all")  # which cases are read: those whose answer the model gives itself, or all


class Case(NamedTuple):
    """A vector with known answers.

    Attributes:
        unit: what it is a case of; cases of a unit count together, as one.
        source: the source prompt, whose last token is read.
        plain: what stands in the target prompt where nothing is patched.
        wanted: words that a reading should say; those of a unit are the same in all its cases.
        question: what the model is asked itself; "" where it isn't asked.
        accepted: words of which its answer should have one.
    """

    unit: str
    source: str
    plain: str
    wanted: tuple[str, ...]
    question: str = ""
    accepted: tuple[str, ...] = ()


class Task(NamedTuple):
    """Cases that are read with one target prompt and counted together.

    Attributes:
        name: as in tables.
        cases: in the order of the file.
        asks: the target prompt.
        left_out: reason -> how many cases of the file.
    """

    name: str
    cases: tuple[Case, ...]
    asks: TargetPrompt
    left_out: dict[str, int]


class Repository(NamedTuple):
    """Who publishes a benchmark's files.

    Attributes:
        name: owner/name on GitHub.
        folder: in the repository.
        pattern: of the files' names.
        what: they are, in an error.
    """

    name: str
    folder: str
    pattern: str
    what: str

    def files(self, parameter: str, folder: Path) -> list[Path]:
        """List a folder's files, also those one folder deeper, by name.

        Raises:
            InputError: no such folder, or none of the files in it; says where they come from.
        """
        found = sorted({*folder.glob(self.pattern), *folder.glob(f"*/{self.pattern}")}, key=lambda file: file.stem)
        if not found:
            problem = f"holds no {self.pattern}" if folder.is_dir() else "no such folder"
            within = f" (its folder {self.folder})" if self.folder else ""
            raise InputError(
                parameter, str(folder), f"{problem}; {self.what} are in {self.name}{within}: "
                f"git clone --depth 1 https://github.com/{self.name}",
            )  # fmt: skip
        return found


def read_items(parameter: str, file: Path, needed: Sequence[str] = ("name", "prompt", "intermediates")) -> list[dict]:
    """Read the items of a JSON file {"items": [...]}.

    Raises:
        InputError: not such a file, or an item that lacks something, or has no answer.
    """
    try:
        items = json.loads(file.read_text(encoding="utf-8"))["items"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(parameter, str(file), f'not a JSON file with "items" ({error})') from error
    for number, item in enumerate(items, start=1):
        if missing := [name for name in needed if name not in item]:
            raise InputError(parameter, str(file), f"item {number} lacks {', '.join(missing)}")
        if not str(item["prompt"]).strip():
            raise InputError(parameter, str(file), f"item {number} ({item['name']}) has a blank prompt")
        if not any(str(word).strip() for word in item["intermediates"]):
            raise InputError(parameter, str(file), f"item {number} ({item['name']}) has no answer in its intermediates")
    return items


def spread(cases: Iterable[Case], most: int = 0) -> list[Case]:
    """Return at most so many cases (0 is all), of as many units as can be: the first of each, then the second, …"""
    of_unit: dict[str, list[Case]] = {}
    for case in cases:
        of_unit.setdefault(case.unit, []).append(case)
    turns = [
        some[turn] for turn in range(max(map(len, of_unit.values()), default=0)) for some in of_unit.values() if turn < len(some)
    ]
    return turns[: most or None]


def usable(
    task: Task, answers: dict[str, str], rule: Callable[[str, str], bool]
) -> tuple[list[Case], int]:
    """Return the cases whose question the model answers itself, and how many were asked.

    Args:
        answers: question -> what the model writes after it, of those that were asked.
    """
    asked = [case for case in task.cases if not case.question or case.question in answers]
    right = [
        case for case in asked
        if not case.question or any(rule(answers[case.question], word) for word in case.accepted)
    ]  # fmt: skip
    return right, len(asked)


def too_few(task: Task, cases: Sequence[Case], asked: int) -> str:
    """Say why a task has no numbers; "" if it has enough cases.

    Args:
        cases: that can be used.
        asked: how many were asked.
    """
    units = len({case.unit for case in cases})
    if len(cases) >= LEAST_CASES and units >= LEAST_UNITS:
        return ""
    whose = f" of {asked} that were asked, whose answer the model gives itself" if asked > len(cases) else ""
    needs = f"fewer than {LEAST_CASES} of {LEAST_UNITS}"
    return f"{task.name}: left out; {len(cases)} usable rows of {units} subjects{whose}: {needs}"
