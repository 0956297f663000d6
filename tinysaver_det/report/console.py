"""Where tables are printed."""

import sys

from rich.console import Console


def console() -> Console:
    """Standard output; off a terminal wide enough for every table."""
    return Console(width=None if sys.stdout.isatty() else 160)
