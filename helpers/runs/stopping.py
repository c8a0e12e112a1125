"""How a run ends before it is through: by Ctrl-C, SIGTERM or a machine that can't go on.

The first signal is a request, the second one ends the run at once.
"""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import ROOT
from ..words.files import shown

SAME_SIGNAL = 0.5  # seconds: a job manager signals both a command and its notebook, and the command passes it on
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Stopped(KeyboardInterrupt):
    """A run that the user ended before it was through; what it had read is kept. Exit code 130."""

    code = 130


class Terminated(Stopped):
    """A run that the machine ended: SIGTERM, a full disk, a process that was killed. Exit code 143."""

    code = 143


KINDS = {signal.SIGINT: Stopped, signal.SIGTERM: Terminated, signal.SIGHUP: Terminated}


@contextmanager
def deferring_signals(first: Callable[[int], bool], second: str = "") -> Iterator[Callable[[], type[Stopped] | None]]:
    """Handle signals within the block: note the first one, and raise at the second.

    Args:
        first: called at the first signal with its number; if it returns False, the signal raises right away.
        second: the message of what the second signal raises.

    Yields:
        A function that returns the kind of end that was asked for, or None while there was no signal.
    """
    noted = []

    def note(signum, frame):
        if noted and time.monotonic() - noted[1] < SAME_SIGNAL:
            return
        if noted or not first(signum):
            raise KINDS[signum](second)
        noted[:] = signum, time.monotonic()

    handled = [signum for signum in KINDS if signal.getsignal(signum) != signal.SIG_IGN]  # nohup's stay ignored
    before = {signum: signal.signal(signum, note) for signum in handled}
    try:
        yield lambda: KINDS[noted[0]] if noted else None
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def no_room(error: OSError, path: Path = ROOT) -> str:
    """Say why a file could not be written, and how much room its disk has left."""
    path = Path(error.filename or path)
    disk = os.statvfs(next(folder for folder in (path, *path.parents) if folder.exists()))
    return f"{shown(path)} can't be written: {error.strerror} ({disk.f_bavail * disk.f_frsize / 2**20:,.1f} MiB free)"
