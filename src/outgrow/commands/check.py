"""`outgrow architectures check`: whether an architecture file tells the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.commands.options import CheckCall
from outgrow.commands.outcome import Outcome
from outgrow.errors import ArchitectureError, ConfigError, near
from outgrow.models.architecture import load_architecture
from outgrow.models.files import known, use_folders
from outgrow.proof.guard import Check, check
from outgrow.text.table import TextTable

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Checked(Outcome):
    """What was promised of every growth, and what was measured."""

    check: Check

    @property
    def failed(self) -> bool:
        """Whether a promise fails."""
        return not self.check.holds

    def show(self, console: Console) -> None:
        """A table, what is refused and not promised, and the verdict."""
        console.print(self.table().rich())
        for operator, why in self.check.refused.items():
            console.print(f"{operator} refuses: {why}")
        for one in self.check.growths:
            if one.why:
                console.print(f"{one.operator} does not promise all: {'; '.join(one.why)}")
        console.print(
            "A promise fails: the file says of some tensor, axis or norm what is not so. Compare with the model's code."
            if self.failed
            else "Every promise holds."
        )

    def table(self) -> TextTable:
        """A row for the order of units, and one per growth."""
        rows = [("units in another order", "", "must not change", f"{self.check.units:.0e}", "", "")]
        rows += [
            (
                f"{one.operator} growth",
                ", ".join(f"{name} {size}" for name, size in one.sizes.items()),
                "kept" if one.promises_function else "not promised",
                f"{one.function:.0e}",
                "kept" if one.promises_law else "not promised",
                f"{one.law:.0e}",
            )
            for one in self.check.growths
        ]
        columns = ("what", "to", "function", "max |Δlogits| / max |logits|", "gradient law", "worst tensor")
        heading = f"{self.check.model_type}, {self.check.parameters:,} parameters, float64 throughout"
        return TextTable(heading, columns, rows, numbers=False)

    def to_json(self) -> dict[str, Any]:
        """All numbers, and `passed`."""
        found = self.check
        return {
            "model_type": found.model_type,
            "parameters": found.parameters,
            "units": found.units,
            "growths": [{**vars(one), "sizes": dict(one.sizes), "holds": one.holds} for one in found.growths],
            "refused": dict(found.refused),
            "passed": found.holds,
        }


def run(call: CheckCall, console: Console) -> Checked:
    """Check a file, or the file of a known model type, by its own example."""
    return Checked(check(load_architecture(_model_type(call.file))))


def _model_type(wanted: str) -> str:
    """The model type that is asked for; the folder of a file that is named outright becomes one of the user's."""
    path = Path(wanted)
    if path.suffix != ".yaml":
        if wanted not in known():
            raise ConfigError(
                f"'{wanted}' is neither a known model type nor a file ({near(wanted, known())})",
                expected="a path that ends in .yaml, or a name of `outgrow architectures`",
            )
        return wanted
    if not path.is_file():
        raise ArchitectureError(f"{path} does not exist", fix="give the path of a file that ends in .yaml")
    use_folders([path.parent])
    said = load_architecture(path.stem).model_type
    if said != path.stem:
        raise ArchitectureError(
            f"{path} is the file of model type '{said}'",
            fix=f"name it {said}.yaml: files are found by their name",
        )
    return path.stem
