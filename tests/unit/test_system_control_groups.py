"""Limits of containers and services, as the kernel shows them in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispy.node.machine.cpus import usable_cpus
from dispy.system.control_groups import cpu_quota, memory_limit

V1 = "9:name=systemd:/x\n4:memory:/docker/1\n2:cpu,cpuacct:/docker/1\n1:cpuset:/docker/1\n0::/x\n"
NOTHING = 9223372036854771712


def make(root: Path, group: str, files: dict[str, str]) -> Path:
    """A directory as of ``/``."""
    own = root / "proc/self/cgroup"
    own.parent.mkdir(parents=True)
    own.write_text(group)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),  # in a container, as it sees itself
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/of/the/host\n", {"cpu.max": "50000 100000\n"}, 0.5),  # of which the container sees nothing
        ("0::/../../x\n", {"cpu.max": "50000 100000\n"}, 0.5),
        (
            V1,
            {"cpu/docker/1/cpu.cfs_quota_us": "50000\n", "cpu/docker/1/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
        (V1, {"cpu/docker/1/cpu.cfs_quota_us": "-1\n", "cpu/docker/1/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
        ("0::/\n", {"cpu.max": "50000 0\n"}, None),
        ("nonsense\n\n", {"cpu.max": "50000 100000\n"}, None),
    ],
    ids=str,
)
def test_quotas_of_cpu_time(tmp_path: Path, group: str, files: dict[str, str], quota: float | None) -> None:
    root = make(tmp_path, group, files)
    assert cpu_quota(root) == quota
    most = usable_cpus()
    wanted = most if quota is None else min(most, -int(-quota // 1))
    assert usable_cpus(root) == max(1, wanted)


@pytest.mark.parametrize(
    ("group", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "536870912\n"}, 1 << 29),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/a/b\n", {"a/memory.max": "1000000\n", "a/b/memory.max": "max\n"}, 1000000),
        (V1, {"memory/docker/1/memory.limit_in_bytes": "1000000\n"}, 1000000),
        (V1, {"memory/memory.limit_in_bytes": "1000000\n"}, 1000000),
        (V1, {"memory/docker/1/memory.limit_in_bytes": f"{NOTHING}\n"}, None),
        ("", {}, None),
    ],
    ids=str,
)
def test_limits_of_memory(tmp_path: Path, group: str, files: dict[str, str], limit: int | None) -> None:
    assert memory_limit(make(tmp_path, group, files)) == limit


def test_there_may_be_no_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert memory_limit(tmp_path) is None
    assert usable_cpus(tmp_path) >= 1
