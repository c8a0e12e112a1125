"""Progress: a bar with rows, rows per second and time left; in a log, a line a minute."""

import os
import sys

from tqdm import tqdm

LOG = "SUPERSCOPES_LOG"  # set in a process whose output goes to a log, though it can't see that itself


class Bar(tqdm):
    """A bar in a terminal or a notebook; elsewhere a line a minute, and a last one at the end."""

    def __init__(self, total: int, desc: str, initial: int = 0):
        in_log = LOG in os.environ or not (sys.stderr.isatty() or "ipykernel" in sys.modules)
        seconds = float(os.environ.get("TQDM_MININTERVAL", 60 if in_log else 0.5))
        line = "{desc}: {n_fmt} of {total_fmt} rows, {rate_fmt}, {remaining} left" if in_log else None
        self.status_printer = _print_lines if in_log else tqdm.status_printer
        super().__init__(
            total=total, desc=desc, initial=initial, unit="row", mininterval=seconds, maxinterval=seconds,
            bar_format=line,
        )  # fmt: skip


def _print_lines(file):
    """Return what prints each state of the bar as a line."""
    return lambda text: print(text.rstrip(), file=file, flush=True) if text.strip() else None
