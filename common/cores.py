"""The cores that this process may use: of a container with two of a machine's 64, threads for 64 would stand in each other's way."""

import math
import os
from pathlib import Path

GROUP = Path("/sys/fs/cgroup")  # of a container: its own limits; of a machine: the folders of all groups
OWN = Path("/proc/self/cgroup")  # which of these this process is in


def bound() -> list[int]:
    """The numbers of the cores that this process is bound to; empty where a system doesn't say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []  # Linux has it


def share() -> float:
    """How many cores' time its control group, and those around it, grant it; infinite without a limit."""
    return min(map(_granted, _groups()))


def _groups() -> list[Path]:
    """The folders of its group and of all around it, of version 2 and of version 1; some may not be there."""
    found = [GROUP, GROUP / "cpu"]
    try:
        lines = OWN.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return found
    for line in lines:  # 0::/system.slice/server.service, or 4:cpu,cpuacct:/docker/…
        _, kinds, path = line.split(":", 2)
        if not kinds or "cpu" in kinds.split(","):
            inner = (GROUP / "cpu" if kinds else GROUP) / path.strip("/")
            found += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(GROUP)]
    return found


def _granted(folder: Path) -> float:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()  # version 2
    except (OSError, ValueError):
        try:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        except OSError:
            return math.inf
    return int(quota) / int(period) if quota.strip() != "max" and int(quota) > 0 else math.inf


def usable() -> int:
    """How many threads have a core of their own."""
    return max(1, min(len(bound()) or os.cpu_count() or 1, math.ceil(min(share(), 1e6))))
