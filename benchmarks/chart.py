"""The picture of a benchmark's tables."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from benchmarks.growth import BATCH_SIZE

OURS, OTHERS, MEMORY = "#1b6e73", "#b9c0c4", "#a0522d"
FLOOR = "bare matrix products"


def draw(table: pd.DataFrame, growth: pd.DataFrame, file: Path) -> None:
    """Rows per second of each way, and what a row costs in a plan of any length."""
    dtypes = list(table["dtype"].unique())
    figure, axes = plt.subplots(len(dtypes) + 1, figsize=(8.4, 2.5 * (len(dtypes) + 1)), constrained_layout=True)
    for axis, dtype in zip(axes, dtypes, strict=False):
        _draw_ways(axis, table[table["dtype"] == dtype])
        axis.set_title(dtype, fontsize=11, loc="left")
        axis.set_xlabel("interpretations per second", fontsize=9.5)
    memory = _draw_growth(axes[-1], growth)
    for axis in (*axes, memory):
        axis.spines["top"].set_visible(False)
        axis.tick_params(labelsize=9.5)
    model, device, rows = table["model"][0], table["device"][0], f"{table['rows'].max():,}"
    figure.suptitle(f"{model} on {device}, up to {rows} rows, 10 new tokens each", fontsize=11, x=0.01, ha="left")
    figure.savefig(file, dpi=140, metadata={"Software": None})
    plt.close(figure)


def _draw_ways(axis: plt.Axes, some: pd.DataFrame) -> None:
    products = some.loc[some["way"] == FLOOR, "rows per second"].item()
    some = some[some["way"] != FLOOR].iloc[::-1]
    ours = some["way"].str.startswith("this engine")
    bars = axis.barh(some["way"], some["rows per second"], color=ours.map({True: OURS, False: OTHERS}), height=0.68)
    labels = [
        f"{speed:.3g}" + (f"   (the engine is {times:.3g} times faster)" if times > 1.5 else "")
        for speed, times in zip(some["rows per second"], some["engine is faster by"], strict=True)
    ]
    axis.bar_label(bars, labels, padding=4, fontsize=9.5)
    axis.axvline(products, color="#555555", linewidth=1, linestyle=":")
    axis.annotate(
        "bare matrix products", (products, -0.35), xytext=(-4, 0), textcoords="offset points", ha="right", fontsize=9.5,
        color="#555555",
    )  # fmt: skip
    axis.set_xlim(0, 1.06 * products)
    axis.spines["right"].set_visible(False)


def _draw_growth(axis: plt.Axes, growth: pd.DataFrame) -> plt.Axes:
    axis.plot(growth["rows"], growth["ms per row"], "o-", color=OURS)
    axis.set_xscale("log", base=2)
    axis.set_xticks(growth["rows"], [f"{rows:,}" for rows in growth["rows"]])
    axis.minorticks_off()
    axis.set_ylim(0, 1.5 * growth["ms per row"].max())
    axis.set_xlabel("rows of the plan", fontsize=9.5)
    axis.set_ylabel("milliseconds per row", color=OURS, fontsize=9.5)
    axis.set_title(
        f"a longer plan ({growth['dtype'][0]}, batches of {BATCH_SIZE}, not compiled)", fontsize=11, loc="left"
    )
    memory = axis.twinx()
    memory.plot(growth["rows"], growth["peak MiB at the end"] / 1024, "s--", color=MEMORY, markersize=4)
    memory.set_ylim(0, 2 * growth["peak MiB at the end"].max() / 1024)
    memory.set_ylabel("peak memory, GiB", color=MEMORY, fontsize=9.5)
    return memory
