"""Where text and tables are printed: a terminal says how wide it is, a file or a pipe gets room for a table."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 130
"""Columns where there is no terminal and COLUMNS is not set."""


def open_console(*, quiet: bool = False, errors: bool = False) -> Console:
    """A console on standard output, or on standard error, which prints nothing if `quiet`."""
    from rich.console import Console

    stream = sys.stderr if errors else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH
    return Console(stderr=errors, quiet=quiet, width=width, highlight=False)
