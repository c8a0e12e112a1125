"""Locks: a folder that no other process changes."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from .. import InputError
from ..words.files import shown, write_atomically
from .stopping import NO_ROOM, Terminated, no_room

PATIENCE = 3  # seconds: the kernel of a command that was killed lives about so long


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from changing a folder; the system releases the lock if this process ends, however it does.

    Raises:
        InputError: another process has it (named), or it can't be written.
        Terminated: the disk is full.
    """
    lock, file = FileLock(folder / "lock"), folder / "owner.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=PATIENCE)
        with write_atomically(file) as text:
            since = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
            json.dump({"host": socket.gethostname(), "process": os.getpid(), "since": since}, text)
    except Timeout:
        raise in_use_error(folder, owner(folder)) from None
    except OSError as error:
        lock.release()
        if error.errno in NO_ROOM:
            raise Terminated(no_room(error, folder)) from error
        raise InputError("run", shown(folder), f"can't be written ({error.strerror})") from error
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        lock.release()


def in_use(folder: Path) -> str:
    """Return the process that has locked a folder, in words; "" if none has."""
    if not (folder / "lock").is_file():
        return ""
    try:
        with FileLock(folder / "lock").acquire(timeout=0):
            return ""
    except Timeout:
        return owner(folder)
    except OSError:  # a folder that can't be written, so that nobody uses it
        return ""


def owner(folder: Path) -> str:
    """Return the process that says it has locked a folder, in words."""
    try:
        said = json.loads((folder / "owner.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "another process"
    return f"process {said['process']} on {said['host']} since {said['since']}"


def in_use_error(folder: Path, user: str) -> InputError:
    """Return the error for a folder that another process has locked."""
    return InputError("run", shown(folder), f"is in use by {user}; wait for it or stop it")
