"""The machine that this runs on; plain Python."""

import math
import os
import sys


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def held_memory() -> float:
    """MiB that this process holds now; NaN where the system doesn't tell."""
    found = _status('VmRSS')
    return math.nan if found is None else found


def most_memory() -> float:
    """The most that this process held, in MiB; since :func:`forget_most_memory`, where the system can."""
    found = _status('VmHWM')
    if found is None:
        import resource

        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == 'darwin' else 1 << 10)
    return found


def forget_most_memory() -> None:
    """Let the kernel forget the most memory that this process held until now, where it can."""
    try:
        with open('/proc/self/clear_refs', 'w') as f:
            f.write('5')
    except OSError:
        pass


def _status(key):
    """MiB of an entry in Linux's own account of this process; None elsewhere."""
    try:
        with open('/proc/self/status') as f:
            return next(int(line.split()[1]) / 1024 for line in f if line.startswith(f'{key}:'))
    except (OSError, StopIteration):
        return None
