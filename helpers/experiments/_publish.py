"""How an experiment's figure and table are published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure


def publish(
    folder: Path, figures: Mapping[str, Figure], table: pd.DataFrame, file: str, about: Mapping[str, object]
) -> None:
    """Write figures (name -> figure), a table, and beside it the JSON about it."""
    from ..figures.style import save_figure
    from ..runs.results import save_results

    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    table.attrs = dict(about)
    save_results(table, folder / file)
