"""How a run is stopped: by Ctrl-C, SIGTERM or a machine that can't go on; the first signal is a request, the second an end."""

import errno
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SAME_SIGNAL = 0.5  # seconds: a job manager signals a command and its notebook both, which pass it on
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Stopped(KeyboardInterrupt):
    """A run that ended before it was through; what it had read is kept. By the user: exit code 130."""

    code = 130


class Terminated(Stopped):
    """The same by the machine: SIGTERM, a full disk, a process that was killed. Exit code 143."""

    code = 143


KINDS = {signal.SIGINT: Stopped, signal.SIGTERM: Terminated, signal.SIGHUP: Terminated}


@contextmanager
def hearing(first: Callable[[int], bool], second: str = "") -> Iterator[Callable[[], type[Stopped] | None]]:
    """Within the block the first signal is only noted; a second one raises, with the words `second`.

    Args:
        first: what is done at the first one, given its number; False raises there and then.

    Yields:
        What tells which kind of end the signal that came asks for; None if none came.
    """
    came = []

    def note(signum, frame):
        if came and time.monotonic() - came[1] < SAME_SIGNAL:
            return
        if came or not first(signum):
            raise KINDS[signum](second)
        came[:] = signum, time.monotonic()

    heard = [signum for signum in KINDS if signal.getsignal(signum) != signal.SIG_IGN]  # nohup's stay unheard
    before = {signum: signal.signal(signum, note) for signum in heard}
    try:
        yield lambda: KINDS[came[0]] if came else None
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
