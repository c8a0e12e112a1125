"""`./runme.sh label`: which of a few labels a prompt's vectors are, as a table in the terminal and as a CSV."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from .. import InputError
from ..words.components import COMPONENTS, into
from ..words.files import check_writable, in_repository, shown
from ..words.labels import LabelSettings, continuations
from ..words.settings import settle
from . import DONE, FAILED_ROWS

if TYPE_CHECKING:
    import pandas as pd

LIKELIEST = "●"


def label(texts: Sequence[str], options: Mapping[str, str | None], out: str = "") -> int:
    """Ask, and print a table; every setting is checked before the weights are loaded.

    Args:
        texts: NAME=VALUE settings of `LabelSettings`, or options of a model's source.
        options: settings that were given as arguments or options; None where they weren't.
        out: a CSV that is written, relative to the repository; none if empty.

    Returns:
        The exit code: 0 done, 3 where some vectors have no probabilities, 130 stopped by Ctrl-C.

    Raises:
        InputError: names the parameter, what was given and what is allowed.
    """
    asked = settle(LabelSettings, texts, options)
    plan, others = asked.plan(), asked.references()
    file = in_repository(out) if out else None
    if file and file.suffix != ".csv":
        raise InputError("--out", out, "expected the name of a CSV file, like runs/labels.csv")
    print("checking the settings against the model …", flush=True)
    from ..models.load import check_hardware, read_model

    check_hardware(asked.dtype, asked.device)
    card = read_model(asked.model, **asked.source_options.changed)
    vectors = len(plan.items(card))
    continuations(card, plan.target_prompt, asked.labels)
    if file:
        check_writable(file.parent, "--out")
    beside = f"each beside {len(others)} other prompts"
    print(f"{card.slug}: {vectors:,} vectors × {len(asked.labels)} labels, {beside}", flush=True)
    from ..runs.labels import label_as_asked
    from ..runs.progress import Bar
    from ..runs.session import Session

    try:
        lm = Session(asked).lm
        with Bar(vectors, "labels") as bar:
            rows = label_as_asked(lm, asked, lambda done, _: bar.update(done - bar.n))
    except KeyboardInterrupt:
        print("\nStopped; nothing is kept.", file=sys.stderr)
        return 130
    print("\n" + "\n".join(lines_of(rows, shutil.get_terminal_size((120, 24)).columns)))
    if file:
        from ..runs.results import save_results

        save_results(rows, file)
        print(f"\n{shown(file)}")
    return FAILED_ROWS if rows["probability"].isna().any() else DONE


def lines_of(rows: pd.DataFrame, width: int) -> Iterator[str]:
    """Yield a table's lines: a layer and an amplifier each, its labels' probabilities with chance in brackets.

    Args:
        rows: as `runs.labels.label` returns them.
        width: letters; where the columns don't fit, a line lists the labels, the likeliest first.
    """
    first = rows.iloc[0]
    yield (
        f"“{first['source prompt']}”, token {first['token'].strip()!r}: {COMPONENTS[first['component']].plural} "
        f"{into('same' if (rows['layer'] == rows['target layer']).all() else first['target layer'])}"
    )
    yield (
        f"Each label as the text that follows the target prompt, {first['continuation']!r} the first, less its prior "
        "with nothing patched."
    )
    yield (
        f"In brackets chance, the mean of {rows.attrs['references']} other prompts' last tokens. {LIKELIEST} the "
        "likeliest, where it is above its chance."
    )
    yield ""
    labels = list(dict.fromkeys(rows["label"]))
    columns = [max(len(label), len(".00 (.00) ●")) + 2 for label in labels]
    head = f"{'layer':>5}  {'α':>4}  "
    fits = len(head) + sum(columns) <= width
    heads = "".join(f"{label:<{size}}" for label, size in zip(labels, columns, strict=True)) if fits else "labels"
    yield f"{head}{heads}".rstrip()
    before = None
    for (layer, amplifier), of in rows.groupby(["layer", "amplification value"], sort=False):
        cells = {row["label"]: f"{_share(row['probability'])} ({_share(row['chance'])})" for _, row in of.iterrows()}
        if best := likeliest(of):
            cells[best] += f" {LIKELIEST}"
        start = f"{layer if layer != before else '':>5}  {amplifier:>4g}  "
        before = layer
        if fits:
            shares = "".join(f"{cells[label]:<{size}}" for label, size in zip(labels, columns, strict=True))
            yield f"{start}{shares}".rstrip()
            continue
        ordered = of.sort_values("probability", ascending=False, kind="stable")["label"]
        yield from _wrapped(start, [f"{label} {cells[label]}" for label in ordered], width)


def likeliest(rows: pd.DataFrame) -> str:
    """Return the likeliest label of one vector; "" if that is not above its chance."""
    if rows["probability"].isna().any():
        return ""
    best = rows.loc[rows["probability"].idxmax()]
    return best["label"] if best["probability"] > best["chance"] else ""


def _share(value: float) -> str:
    """Write a probability in as few letters as can be: .62, 1.00, – for none."""
    return "–" if value != value else f"{value:.2f}".removeprefix("0")


def _wrapped(start: str, parts: Sequence[str], width: int) -> Iterator[str]:
    """Yield parts in lines that are no wider than this, the later ones indented."""
    line = start
    for number, part in enumerate(parts):
        part += "," if number < len(parts) - 1 else ""
        if len(line) + len(part) > width and line.strip():
            yield line.rstrip()
            line = " " * len(start)
        line += f"{part} "
    yield line.rstrip()
