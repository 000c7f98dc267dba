"""The cores that this process may use: of a container with two of a machine's 64, threads for 64 would stand in each other's way."""

import math
import os
from pathlib import Path

GROUP = Path("/sys/fs/cgroup")  # of a container: its own limits


def bound() -> list[int]:
    """The numbers of the cores that this process is bound to; empty where a system doesn't say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []  # Linux has it


def share() -> float:
    """How many cores' time its control group grants it; infinite without a limit."""
    try:
        quota, period = (GROUP / "cpu.max").read_text(encoding="utf-8").split()  # version 2
    except (OSError, ValueError):
        try:
            quota, period = ((GROUP / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        except OSError:
            return math.inf
    return int(quota) / int(period) if quota.strip() != "max" and int(quota) > 0 else math.inf


def usable() -> int:
    """How many threads have a core of their own."""
    return max(1, min(len(bound()) or os.cpu_count() or 1, math.ceil(min(share(), 1e6))))
