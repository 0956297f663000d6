"""The machine that this runs on; plain Python."""

import math
import os


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def held_memory() -> float:
    """MiB that this process holds now; NaN where the system doesn't tell."""
    try:
        with open('/proc/self/status') as f:
            return next(int(line.split()[1]) / 1024 for line in f if line.startswith('VmRSS'))
    except (OSError, StopIteration):
        return math.nan
