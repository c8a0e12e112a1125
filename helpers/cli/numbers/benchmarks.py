"""What was measured in benchmarks/."""

import json
import re

from ... import ROOT
from .parts import in_words, listed, measured, number, rows_of


@number
def long() -> str:
    """Say what a long run costs beside the reading itself."""
    table = measured("long").set_index("what")
    value, ratio = table["value"], table["× plain"]
    driver = f"{round(value['driver'], -3):,.0f} rows per second"
    return (
        f"the ledger costs nothing that can be seen ({ratio['ledger']:.2f} × the plain sweep's speed), one worker gives "
        f"{ratio['1 worker']:.2f} × and two with a core each {ratio['2 workers']:.2f} ×. The driver alone takes {driver} "
        f"from its workers to the disk, as many as {value['driver'] / value['1 worker']:,.0f} such workers read, and "
        f"lays out 10⁶ rows in {value['seconds to lay out 10^6 rows']:.0f} s; the judge scores 10⁶ different texts in "
        f"{value['seconds to score 10^6 texts'] / 60:.0f} minutes."
    )


@number
def scale() -> str:
    """Lay out what many rows need, at the measured speed of one worker with two cores: on paper."""
    value, rows = measured("long").set_index("what")["value"], []
    chunk = int(re.search(r"^CHUNK = (\d+)", (ROOT / "helpers/runs/cluster.py").read_text(encoding="utf-8"), re.M)[1])
    for power, workers in ((6, 1), (6, 16), (9, 100), (9, 900)):
        speed = workers * value["1 worker"]
        rows.append([
            {6: "10⁶", 9: "10⁹"}[power],
            str(workers),
            f"{10**power / speed / 3600:,.1f}",
            f"{10**power * value['bytes a row on the disk'] / 1e9:.2g} GB",
            f"{workers / chunk:.1f}",
            f"{speed * value['bytes a row in a message'] / 1e6:.2f} MB",
        ])  # fmt: skip
    return rows_of(["rows", "workers", "hours", "ledger", "tasks per second", "to the driver per second"], rows)


@number
def speed() -> str:
    """Say how fast the engine is, beside other ways."""
    from ...engine.compile import FROM_ROWS

    table = measured("speed").set_index(["way", "dtype"])

    def both(way: str, column: str, form: str) -> str:
        """Give the float32 and the bfloat16 number."""
        return " and ".join(format(table.loc[(way, dtype), column], form) for dtype in ("float32", "bfloat16"))

    faster, per_second, same = "engine is faster by", "rows per second", "same texts as plain float32"
    engine, uncompiled = "this engine", "this engine, not compiled"
    texts = table.loc[(engine, "bfloat16"), same]
    plain = table.loc[("plain, one by one", "bfloat16"), same].split(" of ")[0]
    return (
        f"On two CPU cores the engine reads {table.loc[(engine, 'float32'), per_second]:.0f} vectors per second in "
        f"float32 and {table.loc[(engine, 'bfloat16'), per_second]:.0f} in bfloat16: {both('plain, one by one', faster, '.0f')} "
        f"times as many as the plain way and {both('nnsight', faster, '.1f')} times as many as nnsight's best batch. A row "
        f"takes {both(engine, 'times the matrix products', '.1f')} times the bare matrix products of its new tokens. That is "
        f"a long plan, whose blocks are compiled first; a plan of fewer than {FROM_ROWS:,} rows doesn't wait for a compiler "
        f"and reads {both(uncompiled, per_second, '.0f')} per second. In bfloat16 rounding decides between close words: "
        f"{texts} texts were the plain float32 way's, {table.loc[('batched generate', 'bfloat16'), same]} were for "
        f"transformers' own batches, and {plain} for the plain way in bfloat16; {texts.split(' of ')[1]} texts can't tell "
        f"these apart."
    )


@number
def teacher() -> str:
    """Say how fast given texts are scored."""
    table = measured("teacher").set_index("way")["times reading"]
    lengths = (1, 2, 3, 5, 10)
    times = listed([f"{table[f'scoring texts of {length} tokens']:.1f}" for length in lengths])
    return f"texts of {listed([str(length) for length in lengths])} tokens at {times} times the rows per second of reading"


@number
def proof() -> str:
    """Say what the proof at load costs."""
    table = measured("load")
    seconds, share = table["proof, seconds"], table["proof, share of load"]
    return (
        f"{seconds.min():.2f} to {seconds.max():.1g} s on the catalogue's models, {100 * share.min():.0f} to "
        f"{100 * share.max():.0f} % of loading them"
    )


@number
def given() -> str:
    """Say how fast rows of a file are read."""
    table = measured("given").set_index("way")
    sweep, file, large = (table.loc[way] for way in ("a sweep", "a file", "a large file, small model"))
    ratio = file["rows per second"] / sweep["rows per second"]
    return (
        f"On one CPU core, {file['rows']:,.0f} rows of a file were read at {ratio:.2f} times the speed of as many rows of a "
        f"sweep, in turns. {large['rows']:,.0f} of 110,000 rows of a large file, looked up and read by a small model, took "
        f"{large['MB more']:.0f} MB more memory than 64 of them ([numbers](benchmarks/results/given.csv))."
    )


@number
def logit_lens() -> str:
    """Say what the logit lens costs beside a sweep."""
    table = measured("lens").set_index("of")
    lens = table.loc["logit lens"]
    return (
        f"Beside a sweep of {lens['rows']:g} rows of SmolLM2 it took {100 * lens['share of the sweep']:.1f} % of the sweep's time "
        "([numbers](benchmarks/results/lens.csv))."
    )


@number
def app() -> str:
    """Say how fast the page is."""
    table = measured("app").set_index("what")
    first, whole, weighed = (
        table.loc[f"page, {which}"] for which in ("first readings", "all readings", "all readings with their confidence")
    )
    return (
        f"On two CPU cores, browser included, the {whole['rows']:g} readings of the picture begin to appear after "
        f"{first['seconds']:.1f} s and are there after {whole['seconds']:.1f} s, {whole['times the sweep']:.1f} times as long "
        f"as a sweep of the same plan; their confidence is there after {weighed['seconds']:.1f} s "
        f"([numbers](benchmarks/results/app.csv))."
    )


@number
def neighbor() -> str:
    """Say what waiting threads cost, alone and beside other work."""
    table = measured("neighbor").set_index("way")
    ours, usual, one = (table.loc[way] for way in ("spin 100,000", "torch's default", "one thread"))
    alone, fair = "alone, x the default alone", "beside it, x a fair share"
    return (
        f"A sweep of 32 rows took, alone, {ours[alone]:.2f} times as long as with torch's default, and with one thread "
        f"{one[alone]:.2f} times; beside two busy processes on two cores {ours[fair]:.2f} times a fair share, which is twice the "
        f"time alone (torch's default {usual[fair]:.2f}, one thread {one[fair]:.2f}; AMD EPYC, two rounds; "
        "[numbers](benchmarks/results/neighbor.csv))."
    )


@number
def stop_at_item() -> str:
    """Say what ending a reading with its first list item saves."""
    from ...engine.writing import LEAVE

    table = measured("items")
    table = table[table["rows leave when so many still write"] == LEAVE]
    told = "; ".join(
        f"of {line['new tokens']} tokens {line['x the time of whole readings']:.2f} ({line['least']:.2f} to {line['most']:.2f})"
        for _, line in table.iterrows()
    )
    rows = table["rows"].iloc[0]
    return (
        f"Beside whole readings of the same {rows} vectors it took this share of the processor time, the least and the most of "
        f"three rounds in brackets: {told} ([numbers](benchmarks/results/items.csv))."
    )


@number
def visitors() -> str:
    """Say what many visitors at once wait for, and what a server holds."""
    folder = ROOT / "benchmarks" / "results"
    many, memory = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("visitors", "memory_of_requests")
    )
    return (
        f"{many['visitors']} visitors who ask for four readings and their confidence at the same moment, and again when they have "
        f"them, for {many['seconds']} s, on {many['cores']} cores: {many['requests']} requests, half of them answered within "
        f"{many['seconds, median']:.0f} s, the last after {many['seconds, longest']:.0f} s; {in_words(many['wrong'])} answer was wrong or "
        f"another's, and the server held {many['MiB at the start']:,.0f} MiB at the start and {many['MiB at the end']:,.0f} at the end "
        f"([numbers](benchmarks/results/visitors.csv)). Over {memory['rows']} requests one after another, one of them of 19,900 "
        f"letters, a server held {memory['MiB after the first request']:,.0f} MiB after the first, {memory['MiB at the end']:,.0f} after the "
        f"last, and {memory['MiB at most']:,.0f} at most ([numbers](benchmarks/results/memory_of_requests.csv))."
    )
