"""Where text and tables are printed: a terminal says how wide it is, a file or a pipe gets room for a table."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 130
"""Columns where there is no terminal."""


def open_console(*, quiet: bool = False, errors: bool = False) -> Console:
    """A console on standard output, or on standard error, which prints nothing if `quiet`."""
    from rich.console import Console

    stream = sys.stderr if errors else sys.stdout
    return Console(stderr=errors, quiet=quiet, width=None if stream.isatty() else _WIDTH, highlight=False)
