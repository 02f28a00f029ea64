"""What a command came to: one value that prints for people, or becomes plain data.

    run(call, console) -> outcome        for every command: `call` is what was asked (`options.py`)

What is worth knowing before long work goes to the console while it lasts; what came out is the outcome's to show.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class Outcome(ABC):
    """The result of a command."""

    @abstractmethod
    def show(self, console: Console) -> None:
        """Print it for people."""

    @abstractmethod
    def to_json(self) -> Any:
        """The same as plain data."""

    @property
    def failed(self) -> bool:
        """Whether a promise did not hold: exit code 1."""
        return False
