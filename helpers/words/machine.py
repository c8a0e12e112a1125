"""What this machine gives to this process; in a container, what the container may use."""

import ctypes
import os
from pathlib import Path

import psutil

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
M_ARENA_MAX = -8  # of glibc's malloc.h
CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores() -> int:
    """Count the cores that this process may use, by its affinity and by its container's quota."""
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_quota(folder) for folder in _folders("cpu")]
    return max(1, min([given, *(-(-quota // period) for quota, period in quotas if quota > 0 and period > 0)]))


def free_memory_bytes() -> int:
    """Return the bytes of memory that this process may still take, of the machine and of its container."""
    free = [psutil.virtual_memory().available]
    for folder in _folders("memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            if (most := _number(folder / limit)) is not None:
                free.append(most - (_number(folder / used) or 0) + _cached(folder))
    return max(0, min(free))


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error means too little memory: on a GPU torch has a class for it, on a CPU only a sentence."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return True
    return isinstance(error, RuntimeError) and any(sentence in str(error) for sentence in OUT_OF_MEMORY)


def give_memory_back() -> None:
    """Give the system the memory that was freed: glibc keeps it for later, gigabytes of it after a long prompt."""
    _of_libc("malloc_trim", 0)


def share_memory(arenas: int = 2) -> None:
    """Let all threads allocate from a few pools, as MALLOC_ARENA_MAX does: each thread's own would keep what was freed."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        _of_libc("mallopt", M_ARENA_MAX, arenas)


def _of_libc(name: str, *arguments: int) -> None:
    """Call a function of the C library where it has it: glibc does, others don't."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return
    function(*arguments)


def _folders(controller: str) -> list[Path]:
    """Return the folders of this process's control groups, the outer ones too; none outside Linux."""
    try:
        lines = OWN.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:  # hierarchy:controllers:path; version 2 has one hierarchy, without controllers
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            root = CGROUPS if not controllers else CGROUPS / controller
            inner = Path(path.lstrip("/"))
            found += [root / folder for folder in (inner, *inner.parents)]
            found.append(root)  # in a container, the path may be the host's
    return list(dict.fromkeys(found))


def _quota(folder: Path) -> tuple[int, int]:
    """Return (microseconds of all cores, of how many that pass); (0, 0) without a quota."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()  # version 2
        return (0, 0) if quota == "max" else (int(quota), int(period))
    except (OSError, ValueError):
        return _number(folder / "cpu.cfs_quota_us") or 0, _number(folder / "cpu.cfs_period_us") or 0


def _cached(folder: Path) -> int:
    """Return the bytes of a control group that the kernel takes back when they are needed: files that were read."""
    try:
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))


def _number(file: Path) -> int | None:
    """Return the number in a file; None if there is none, or no limit."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
