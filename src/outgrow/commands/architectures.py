"""`outgrow architectures`: which model types are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from outgrow.commands.options import ArchitecturesCall
from outgrow.commands.outcome import Outcome
from outgrow.models.architecture import load_architecture
from outgrow.models.files import file_of, is_ours, known
from outgrow.text.table import TextTable

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class KnownType:
    """A model type that has a file."""

    model_type: str
    class_: str
    objective: str
    file: str


@dataclass(frozen=True)
class TypesListed(Outcome):
    """Every model type that has a file."""

    types: Sequence[KnownType]

    def show(self, console: Console) -> None:
        """A table."""
        columns = ("model type", "class", "trained to predict", "file")
        rows = [tuple(asdict(one).values()) for one in self.types]
        console.print(TextTable(f"{len(rows)} model types", columns, rows, numbers=False).rich())

    def to_json(self) -> dict[str, dict[str, str]]:
        """By model type."""
        return {
            one.model_type: {"class": one.class_, "objective": one.objective, "file": one.file}
            for one in self.types
        }


def run(call: ArchitecturesCall, console: Console) -> TypesListed:
    """Read every file."""
    types = ((name, load_architecture(name)) for name in known())
    return TypesListed([KnownType(name, one.class_, one.objective, _place(name)) for name, one in types])


def _place(model_type: str) -> str:
    """Where a file was found; outgrow's own are not worth a path."""
    path = file_of(model_type)
    return "outgrow" if path is None or is_ours(path) else str(path)
