"""Where text and tables are printed: a terminal says how wide it is, a file or a pipe gets room for a table.

What is printed is shown as it is: no markup, no emoji names, and no control character that a terminal would obey.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from outgrow.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 130
"""Columns where there is no terminal."""


def open_console(*, quiet: bool = False, errors: bool = False) -> Console:
    """A console on standard output, or on standard error, which prints nothing if `quiet`."""
    from rich.console import Console

    class Plain(Console):
        """Every text that is printed or stands in a table comes through here."""

        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(printable(text), **options)

    stream = sys.stderr if errors else sys.stdout
    width = None if stream.isatty() else _WIDTH
    return Plain(stderr=errors, quiet=quiet, width=width, highlight=False, markup=False, emoji=False)
