"""`outgrow architectures`: which model types are known, and whether an architecture file tells the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from outgrow.errors import ArchitectureError, ConfigError, near
from outgrow.models.architecture import load_architecture
from outgrow.models.files import file_of, known, use_folders
from outgrow.proof.guard import Check, check
from outgrow.text.table import TextTable


def list_command(console: Console) -> dict[str, Any]:
    """Show every model type that has a file, its class, and where the file is; returns plain data."""
    rows = [
        (name, load_architecture(name).class_, load_architecture(name).objective, _place(name))
        for name in known()
    ]
    columns = ("model type", "class", "trained to predict", "file")
    table = TextTable(f"{len(rows)} model types", columns, rows, numbers=False)
    console.print(table.rich())
    return {name: {"class": cls, "objective": objective, "file": file} for name, cls, objective, file in rows}


def _place(model_type: str) -> str:
    """Where a file was found; outgrow's own are not worth a path."""
    path = file_of(model_type)
    own = Path(__file__).parents[1] / "architectures"
    return "outgrow" if isinstance(path, Path) and path.parent == own else str(path)


def check_command(wanted: str, console: Console) -> dict[str, Any]:
    """Check a file, or the file of a known model type, by its own example; returns plain data with `passed`."""
    model_type = _model_type(wanted)
    found = check(load_architecture(model_type))
    console.print(check_table(found).rich())
    for operator, why in found.refused.items():
        console.print(f"{operator} refuses: {why}")
    for one in found.growths:
        if one.why:
            console.print(f"{one.operator} does not promise all: {'; '.join(one.why)}")
    console.print(
        "Every promise holds."
        if found.holds
        else "A promise fails: the file says of some tensor, axis or norm what is not so. Compare with the model's code."
    )
    return {**plain(found), "passed": found.holds}


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


def check_table(found: Check) -> TextTable:
    """What was promised of every growth, and what was measured."""
    rows = [("units in another order", "", "must not change", f"{found.units:.0e}", "", "")]
    rows += [
        (
            f"{one.operator} growth",
            ", ".join(f"{name} {size}" for name, size in one.sizes.items()),
            "kept" if one.promises_function else "not promised",
            f"{one.function:.0e}",
            "kept" if one.promises_law else "not promised",
            f"{one.law:.0e}",
        )
        for one in found.growths
    ]
    columns = ("what", "to", "function", "max |Δlogits| / max |logits|", "gradient law", "worst tensor")
    heading = f"{found.model_type}, {found.parameters:,} parameters, float64 throughout"
    return TextTable(heading, columns, rows, numbers=False)


def plain(found: Check) -> dict[str, Any]:
    """A check as plain data."""
    return {
        "model_type": found.model_type,
        "parameters": found.parameters,
        "units": found.units,
        "growths": [{**vars(one), "sizes": dict(one.sizes), "holds": one.holds} for one in found.growths],
        "refused": dict(found.refused),
    }
