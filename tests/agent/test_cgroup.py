"""Limits read from fake /proc and /sys trees: each a shape that boxes, containers and slices really have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from drivefs_agent.cgroup import Limits, count_cpus, read_limits

GIB = 1 << 30
V2_MOUNT = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def v1_mount(controllers: str, top: str = "/") -> str:
    return f"36 31 0:35 {top} /sys/fs/cgroup/{controllers} rw,relatime - cgroup cgroup rw,{controllers}"


def make_root(root: Path, mounts: list[str], membership: list[str], files: Mapping[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in membership))
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_version_2_takes_the_tightest_of_all_ancestors(tmp_path: Path) -> None:
    """A slice's 8 GiB binds although the service below it says "max", and the service's 1.5 cores although the slice has 4."""
    files = {
        "user.slice/memory.max": str(8 * GIB),
        "user.slice/cpu.max": "400000 100000",
        "user.slice/job.service/memory.max": "max",
        "user.slice/job.service/cpu.max": "150000 100000",
        "user.slice/job.service/cpuset.cpus.effective": "0-3,8",
    }
    limits = read_limits(make_root(tmp_path, [V2_MOUNT], ["0::/user.slice/job.service"], files))
    assert limits == Limits("2", 8 * GIB, 1.5, "0-3,8", 5)


def test_version_2_without_limits(tmp_path: Path) -> None:
    """On a plain box nothing limits: no file at the top, "max" below it."""
    files = {"cpuset.cpus.effective": "0-1", "init.scope/memory.max": "max", "init.scope/cpu.max": "max 100000"}
    limits = read_limits(make_root(tmp_path, [V2_MOUNT], ["0::/init.scope"], files))
    assert limits == Limits("2", None, None, "0-1", 2)


def test_version_1_in_docker_without_a_cgroup_namespace(tmp_path: Path) -> None:
    """The process reads the host's path, but only the container's own group is mounted: the path is cut accordingly."""
    own = "/docker/0123abcd"
    mounts = [v1_mount(name, own) for name in ("memory", "cpu,cpuacct", "cpuset")]
    membership = [f"4:memory:{own}", f"3:cpu,cpuacct:{own}", f"2:cpuset:{own}", f"1:name=systemd:{own}"]
    files = {
        "memory/memory.limit_in_bytes": str(2 * GIB),
        "cpu,cpuacct/cpu.cfs_quota_us": "50000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "cpuset/cpuset.cpus": "2-3",
    }
    limits = read_limits(make_root(tmp_path, mounts, membership, files))
    assert limits == Limits("1", 2 * GIB, 0.5, "2-3", 2)


@pytest.mark.parametrize("unlimited", [0x7FFFFFFFFFFFF000, 0x7FFFFFFFFFFF0000])
def test_version_1_shows_no_limit_as_a_huge_number(tmp_path: Path, unlimited: int) -> None:
    """The number depends on the page size (4 and 64 KiB here); neither is a limit, and neither is a quota of -1."""
    files = {
        "memory/a/memory.limit_in_bytes": str(unlimited),
        "memory/memory.limit_in_bytes": str(unlimited),
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
    }
    root = make_root(tmp_path, [v1_mount("memory"), v1_mount("cpu")], ["2:memory:/a", "1:cpu:/"], files)
    assert read_limits(root) == Limits("1", None, None, None, None)


def test_version_1_nested(tmp_path: Path) -> None:
    """A batch system's job limit binds its steps, whose own file says more."""
    files = {
        "memory/slurm/job/memory.limit_in_bytes": str(3 * GIB),
        "memory/slurm/job/step/memory.limit_in_bytes": str(16 * GIB),
        "memory/memory.limit_in_bytes": str(0x7FFFFFFFFFFFF000),
    }
    root = make_root(tmp_path, [v1_mount("memory")], ["4:memory:/slurm/job/step"], files)
    assert read_limits(root).memory_bytes == 3 * GIB


def test_hybrid(tmp_path: Path) -> None:
    """Both generations mounted: each controller is read where it lives, and an unused version 2 tree adds nothing."""
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    files = {"memory/job/memory.limit_in_bytes": str(GIB), "cpuset/cpuset.cpus": "0", "unified/cgroup.procs": "1"}
    mounts = [v1_mount("memory"), v1_mount("cpuset"), unified]
    root = make_root(tmp_path, mounts, ["4:memory:/job", "3:cpuset:/", "0::/"], files)
    assert read_limits(root) == Limits("hybrid", GIB, None, "0", 1)


def test_a_group_outside_what_is_mounted(tmp_path: Path) -> None:
    """After a move out of its namespace's top the path starts with ".."; the top's own limit is what can be seen."""
    root = make_root(tmp_path, [V2_MOUNT], ["0::/../elsewhere"], {"memory.max": str(GIB)})
    assert read_limits(root).memory_bytes == GIB


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    """A kernel or sandbox without them limits nothing and is no error."""
    assert read_limits(tmp_path) == Limits()


def test_mountpoint_with_a_blank(tmp_path: Path) -> None:
    """mountinfo writes a blank as \\040."""
    mount = r"30 25 0:26 / /sys/fs/cgroup/my\040tree rw - cgroup2 cgroup2 rw"
    root = make_root(tmp_path, [mount], ["0::/"], {"my tree/memory.max": str(GIB)})
    assert read_limits(root).memory_bytes == GIB


@pytest.mark.parametrize(("text", "count"), [("0", 1), ("0-3,8", 5), ("0-63", 64), ("1,3,5-6", 4), ("", 0)])
def test_count_cpus(text: str, count: int) -> None:
    """The kernel's list form: commas and inclusive spans."""
    assert count_cpus(text) == count


def test_what_the_limited_group_uses(tmp_path: Path) -> None:
    """Memory is counted where the limit is, in the slice and not in the service below it, without droppable cache."""
    files = {
        "a.slice/memory.max": str(8 * GIB),
        "a.slice/memory.current": str(5 * GIB),
        "a.slice/memory.stat": f"anon 1\ninactive_file {GIB}\nactive_file 7",
        "a.slice/cpu.stat": "usage_usec 99",
        "a.slice/b.service/memory.max": "max",
        "a.slice/b.service/memory.current": "7",
        "a.slice/b.service/cpu.max": "200000 100000",
        "a.slice/b.service/cpu.stat": "usage_usec 2500000\nuser_usec 1",
    }
    limits = read_limits(make_root(tmp_path, [V2_MOUNT], ["0::/a.slice/b.service"], files))
    assert (limits.memory_bytes, limits.memory_used_bytes) == (8 * GIB, 4 * GIB)
    assert (limits.cpu_cores, limits.cpu_seconds) == (2.0, 2.5)


def test_version_1_counts_a_group_with_its_descendants(tmp_path: Path) -> None:
    """The limit holds for the descendants too, so their cache counts; time is told in nanoseconds, in its own hierarchy."""
    files = {
        "memory/job/memory.limit_in_bytes": str(4 * GIB),
        "memory/job/memory.usage_in_bytes": str(3 * GIB),
        "memory/job/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}",
        "cpuacct/job/cpuacct.usage": "1500000000",
    }
    mounts = [v1_mount("memory"), v1_mount("cpuacct"), v1_mount("cpu")]
    root = make_root(tmp_path, mounts, ["3:memory:/job", "2:cpuacct:/job", "1:cpu:/"], files)
    limits = read_limits(root)
    assert (limits.memory_used_bytes, limits.cpu_seconds) == (2 * GIB, 1.5)
