"""The operators as a table."""

from __future__ import annotations

from outgrow.methods.build import DEPTH, EXPERTS, WIDTH
from outgrow.text.table import TextTable


def operators() -> TextTable:
    """Every growth operator: its name, what it does, and when it keeps the function.

    Name one as `width=`, `depth=` or `experts=` of `grow`, its own options behind a colon (`lemon:split=3`). `print` shows the table;
    `columns` and `rows` hold it.

    >>> table = operators()
    >>> [row[:2] for row in table.rows if row[0] == "isometric"]
    [('isometric', 'width')]
    """
    columns = ("name", "kind", "what it does", "function")
    rows = [
        (one.name, one.kind, one.title, one.function)
        for one in (*WIDTH.values(), *DEPTH.values(), *EXPERTS.values())
    ]
    return TextTable("operators", columns, rows, "`outgrow operators NAME` shows one in full.", numbers=False)
