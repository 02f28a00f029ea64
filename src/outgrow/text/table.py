"""A table of words: one value that prints in a terminal, in Markdown, on a page and in a notebook."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

from outgrow.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 110
"""Columns of a table that is printed: what a laptop's terminal shows."""


@dataclass(frozen=True, repr=False)
class TextTable:
    """A table under a heading, and a note about it. The first column names the row.

    >>> print(TextTable("sizes", ("size", "now"), [("width", "64")], "of a model").markdown())
    ## sizes
    <BLANKLINE>
    | size | now |
    | --- | --- |
    | width | 64 |
    <BLANKLINE>
    of a model
    <BLANKLINE>
    """

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    numbers: bool = True
    """Whether all columns but the first hold numbers, which stand at the right."""

    def rich(self) -> Table:
        """For a terminal; a name that repeats the row above it stands once."""
        from rich.table import Table
        from rich.text import Text

        def plain(text: str) -> Text:  # shown as it is, whatever console prints it
            return Text(printable(text))

        table = Table(
            title=plain(self.heading),
            title_style="bold",
            title_justify="left",
            caption=plain(self.note),
            caption_justify="left",
        )
        for place, column in enumerate(self.columns):
            right = self.numbers and place > 0
            table.add_column(plain(column), justify="right" if right else "left", overflow="fold")
        previous = ""
        for row in self.rows:
            if previous and row[0] != previous and self.numbers:
                table.add_section()
            table.add_row(*map(plain, ("", *row[1:]) if row[0] == previous else row))
            previous = row[0]
        return table

    def markdown(self) -> str:
        """Lines of Markdown."""
        lines = [self.columns, *self.rows]
        head, *rows = ("| " + " | ".join(map(as_markdown, line)) + " |" for line in lines)
        rule = "| --- " * len(self.columns) + "|"
        return "\n".join(
            [f"## {as_markdown(self.heading)}", "", head, rule, *rows, "", as_markdown(self.note), ""]
        )

    def html(self, kind: str = "") -> str:
        """A `table` element; every cell says its column, which a narrow page shows beside it."""
        head = "".join(f"<th>{escape(column)}</th>" for column in self.columns)
        body = "".join(
            (' <tr class="whole">' if row[0] == "whole" else "<tr>")
            + "".join(
                f'<td data-label="{escape(column)}">{escape(str(cell))}</td>'
                for column, cell in zip(self.columns, row, strict=True)
            )
            + "</tr>\n"
            for row in self.rows
        )
        words = f' class="{kind}"' if kind else ""
        return f"<table{words}>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>\n</table>"

    def _repr_html_(self) -> str:
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return f"<p><b>{escape(self.heading)}</b></p>{self.html()}{note}"

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return printed(self.rich())


def as_markdown(text: str) -> str:
    r"""A text on one line that Markdown shows as it is: no HTML, no marks, no new cell.

    >>> as_markdown("<b>|\n*a_b*")
    '\\<b\\>\\| \\*a\\_b\\*'
    """
    return re.sub(r"([\\`*_\[\]<>|&~$#])", r"\\\1", " ".join(printable(text).split()))


def printed(table: Table) -> str:
    """A rich table as plain text."""
    from rich.console import Console

    text = StringIO()
    Console(file=text, width=_WIDTH, color_system=None, markup=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
