"""`outgrow operators`: the table of all, or the page of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from outgrow.commands.options import OperatorsCall
from outgrow.commands.outcome import Outcome
from outgrow.methods.listing import operators
from outgrow.report.operators_page import one
from outgrow.text.table import TextTable

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class OperatorsListed(Outcome):
    """All operators."""

    table: TextTable

    def show(self, console: Console) -> None:
        """The table."""
        console.print(self.table.rich())

    def to_json(self) -> list[dict[str, str]]:
        """A record per operator."""
        return [dict(zip(self.table.columns, row, strict=True)) for row in self.table.rows]


@dataclass(frozen=True)
class OperatorShown(Outcome):
    """One operator in full."""

    name: str
    page: str
    """In Markdown."""

    def show(self, console: Console) -> None:
        """The page, laid out."""
        from rich.markdown import Markdown

        console.print(Markdown(self.page))

    def to_json(self) -> dict[str, Any]:
        """The name, and the page as it is."""
        return {"name": self.name, "page": self.page}


def run(call: OperatorsCall, console: Console) -> OperatorsListed | OperatorShown:
    """Look the operators up; nothing is computed. Raises GrowthError for a name that is none."""
    return OperatorShown(call.name, one(call.name)) if call.name else OperatorsListed(operators())
