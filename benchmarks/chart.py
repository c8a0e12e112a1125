"""The picture of a benchmark's tables."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

OURS, OTHERS = "#1b6e73", "#b9c0c4"


def draw(table: pd.DataFrame, growth: pd.DataFrame, file: Path) -> None:
    """Rows per second of each way, and what a row costs in a plan of any length."""
    dtypes = list(table["dtype"].unique())
    figure, axes = plt.subplots(1, len(dtypes) + 1, figsize=(4.3 * (len(dtypes) + 1), 3.4), constrained_layout=True)
    for axis, dtype in zip(axes, dtypes, strict=False):
        some = table[(table["dtype"] == dtype) & (table["way"] != "bare matrix products")]
        some = some.sort_values("rows per second")
        colours = [OURS if way == "this engine" else OTHERS for way in some["way"]]
        bars = axis.barh(some["way"], some["rows per second"], color=colours, height=0.66)
        labels = [
            f"{speed:.0f}" if way == "this engine" else f"{speed:.3g}  (engine {times:.3g}×)"
            for way, speed, times in zip(some["way"], some["rows per second"], some["engine is faster by"], strict=True)
        ]
        axis.bar_label(bars, labels, padding=4, fontsize=8)
        products = table[(table["dtype"] == dtype) & (table["way"] == "bare matrix products")]["rows per second"].item()
        axis.axvline(products, color="#444444", linewidth=1, linestyle=":")
        axis.annotate("bare matrix\nproducts", (products, -0.25), xytext=(-4, 0), textcoords="offset points", ha="right", fontsize=7.5)
        axis.set_xlim(0, 1.06 * products)
        axis.set_title(dtype, fontsize=10, loc="left")
        axis.set_xlabel("interpretations per second")
    axis = axes[-1]
    axis.plot(growth["rows"], growth["ms per row"], "o-", color=OURS)
    axis.set_xscale("log", base=2)
    axis.set_xticks(growth["rows"], [f"{rows:,}" for rows in growth["rows"]])
    axis.set_ylim(0, 1.5 * growth["ms per row"].max())
    axis.set_xlabel(f"rows of the plan ({growth['dtype'][0]})")
    axis.set_ylabel("milliseconds per row", color=OURS)
    memory = axis.twinx()
    memory.plot(growth["rows"], growth["peak MiB at the end"] / 1024, "s--", color="#a0522d", markersize=4)
    memory.set_ylim(0, 1.8 * growth["peak MiB at the end"].max() / 1024)
    memory.set_ylabel("peak memory, GiB", color="#a0522d")
    axis.set_title("a longer plan", fontsize=10, loc="left")
    for axis in (*axes, memory):
        axis.spines["top"].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.suptitle(f"{table['model'][0]}, {table['device'][0]}, {int(table['rows'].max())} rows, 10 new tokens", fontsize=10)
    figure.savefig(file, dpi=150, metadata={"Software": None})
    plt.close(figure)
