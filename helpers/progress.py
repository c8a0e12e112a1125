"""Progress: one bar with rows, rows per second and time left; in a log, a line a minute."""

import os
import sys

from tqdm import tqdm

LOG = "SUPERSCOPES_LOG"  # set where what is written goes to a log, though this process can't see it


class Bar(tqdm):
    """tqdm in a terminal or a notebook; elsewhere a line a minute, and one at the end."""

    def __init__(self, total: int, desc: str, initial: int = 0):
        in_log = LOG in os.environ or not (sys.stderr.isatty() or "ipykernel" in sys.modules)
        every = float(os.environ.get("TQDM_MININTERVAL", 60 if in_log else 0.5))
        self.status_printer = _lines if in_log else tqdm.status_printer
        how = "{desc}: {n_fmt} of {total_fmt} rows, {rate_fmt}, {remaining} left" if in_log else None
        super().__init__(
            total=total, desc=desc, initial=initial, unit="row", mininterval=every, maxinterval=every, bar_format=how
        )


def _lines(file):
    return lambda text: print(text.rstrip(), file=file, flush=True) if text.strip() else None
