"""What a container may use counts, not what its machine has."""

import pytest

from helpers.words import machine

GIB = 2**30


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Write the files of this process's control groups: path -> text."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "OWN", tmp_path / "own")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: type("", (), {"available": 500 * GIB}))

    def write(own: str, **files: str) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            file = tmp_path / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return write


def test_freed_memory_is_given_back():
    """Small blocks between others that stay; where the C library can't do it, nothing happens."""
    machine.share_memory()
    machine.give_memory_back()
    machine._of_libc("no_such_function", 1)


def test_a_machine_without_limits(group):
    assert (machine.cores(), machine.free_memory_bytes()) == (64, 500 * GIB)
    group("0::/\n", cpu_dot_max="max 100000\n", memory_dot_max="max\n")
    assert (machine.cores(), machine.free_memory_bytes()) == (64, 500 * GIB)


@pytest.mark.parametrize("quota, cores", [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("x", 64)])
def test_the_quota_of_a_container(group, quota, cores):
    group("0::/\n", cpu_dot_max=quota)
    assert machine.cores() == cores


def test_the_outer_groups_count_too(group):
    group("0::/a/b\n", a__cpu_dot_max="300000 100000", a__b__cpu_dot_max="max 100000")
    assert machine.cores() == 3


def test_the_memory_of_a_container_is_less_what_is_used_and_more_what_can_be_dropped(group):
    files = {"memory_dot_max": str(4 * GIB), "memory_dot_current": str(3 * GIB)}
    group("0::/\n", **files, memory_dot_stat=f"anon 1\ninactive_file {GIB}\n")
    assert machine.free_memory_bytes() == 2 * GIB
    group("0::/\n", memory_dot_current=str(9 * GIB), memory_dot_stat="")
    assert machine.free_memory_bytes() == 0


def test_the_first_version_of_control_groups(group):
    group(
        "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n",
        cpu__cpu_dot_cfs_quota_us="400000", cpu__cpu_dot_cfs_period_us="100000",
        memory__memory_dot_limit_in_bytes=str(2 * GIB), memory__memory_dot_usage_in_bytes=str(GIB),
    )  # fmt: skip
    assert (machine.cores(), machine.free_memory_bytes()) == (4, GIB)
