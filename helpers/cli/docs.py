"""`./runme.sh docs`: what is written for readers and stands elsewhere as a fact is written by this, not by hand.

That is what stands between <!-- numbers: NAME --> and <!-- /numbers --> in README.md and docs/ (see `numbers`), and the
notebooks' parameters cells, which the experiments' settings make.
"""

import re
import textwrap
from pathlib import Path

from .. import ROOT, InputError
from ..experiments import write_parameters_cells
from ..words.files import shown, write_atomically

MARKED = re.compile(r"(<!-- numbers: (\w+) -->)(.*?)(<!-- /numbers -->)", re.DOTALL)
WIDTH = 120


def pages() -> list[Path]:
    """List the pages whose numbers are written here."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def update(check: bool = False) -> int:
    """Write numbers and parameters cells where they are out of date, and say where.

    Args:
        check: write nothing.

    Returns:
        The exit code: 1 if `check` finds something out of date.

    Raises:
        InputError: a marker with an unknown name.
    """
    stale = []
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new, names = refresh(old, page)
        stale += [f"{shown(page)}: {name}" for name in names]
        if new != old and not check:
            with write_atomically(page) as file:
                file.write(new)
    stale += [f"{shown(path)}: parameters" for path in write_parameters_cells(check)]
    for what in stale:
        print(f"{'out of date' if check else 'written'}: {what}")
    if not stale:
        print("All numbers and parameters are up to date.")
    return 1 if check and stale else 0


def refresh(text: str, page: Path) -> tuple[str, list[str]]:
    """Return a page's text with its numbers made anew, and the names of those that differ.

    A marker at the end of a line begins a block of lines; within a line, its number stays in the line.
    """
    from .numbers import NUMBERS

    stale = []

    def fill(found: re.Match) -> str:
        start, name, old, end = found.groups()
        if name not in NUMBERS:
            raise InputError("numbers", name, f"{shown(page)} asks for it; known: {', '.join(NUMBERS)}")
        made = relative_to(NUMBERS[name](), page)
        new = f"\n{wrapped(made)}\n" if old.startswith("\n") else made
        if new != old:
            stale.append(name)
        return f"{start}{new}{end}"

    return MARKED.sub(fill, text), stale


def relative_to(text: str, page: Path) -> str:
    """Turn links that are relative to the repository into links from a page."""
    up = "../" * len(page.relative_to(ROOT).parts[:-1])
    return re.sub(r"\]\((?!https?:|#)", f"]({up}", text)


def wrapped(text: str) -> str:
    """Wrap paragraphs; lines of tables stay whole."""
    return "\n".join(
        part if part.startswith("|") else textwrap.fill(part, WIDTH, break_long_words=False, break_on_hyphens=False)
        for part in text.split("\n")
    )
