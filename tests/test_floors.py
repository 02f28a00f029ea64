"""A module imports only from its own floor and those below it (CONTRIBUTING.md), and every module is on a floor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import outgrow

ROOT = Path(outgrow.__file__).parent
FLOORS: dict[int, tuple[str, ...]] = {
    1: ("errors", "axes"),
    2: ("linear", "maps", "slots", "recipe", "noise"),
    3: ("architectures",),
    4: ("growth", "constraints", "cookbook", "plan", "multipliers", "new_entries"),
    5: ("operators",),
    6: ("state", "store"),
    7: ("api", "growth_cost", "verdict", "proof"),
    8: ("flops", "frozen_flops", "memory", "section", "schedule", "reentry", "laws", "curves", "stages"),
    9: ("train", "planning"),
    10: ("console", "report", "cli", "__main__", "__init__"),
}
WITHOUT_TORCH = 8
"""Laws and schedules are arithmetic: the modules of this floor, and all that they import here, do without torch."""


def modules() -> dict[str, Path]:
    """Dotted name below `outgrow` -> file; a package's own file has the package's name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = modules()


def floor(module: str) -> int | None:
    """The floor that a module is on, by the first part of its name."""
    return next((number for number, names in FLOORS.items() if module.split(".")[0] in names), None)


def imports(source: str, module: str) -> Iterator[str]:
    """Absolute names that a file imports, anywhere in it: a late import looks up as much as an early one.

    Imports for type checking alone do not count.
    """
    tree = ast.parse(source)
    ignored: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            ignored.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["outgrow", *module.split(".")]
                base = ".".join([*package[: len(package) - node.level], *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def inside(name: str) -> str | None:
    """The module of ours that an imported name stands for."""
    if name.split(".")[0] != "outgrow":
        return None
    rest = name.split(".")[1:]
    while rest:
        if ".".join(rest) in MODULES:
            return ".".join(rest)
        rest.pop()
    return "__init__"


def needs(module: str) -> set[str]:
    """Modules of ours that a module imports."""
    found = {inside(name) for name in imports(MODULES[module].read_text(), module)}
    return {name for name in found if name is not None and name != module}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_on_a_floor(module: str) -> None:
    assert floor(module) is not None, (
        f"put '{module}' on a floor in tests/test_floors.py and in CONTRIBUTING.md"
    )


def test_a_floor_names_only_what_is_there() -> None:
    assert {name for names in FLOORS.values() for name in names} == {name.split(".")[0] for name in MODULES}


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__"])
def test_no_import_looks_up(module: str) -> None:
    mine = floor(module)
    assert mine is not None
    up = {name: floor(name) for name in needs(module) if name != "__init__" and (floor(name) or 99) > mine}
    assert not up, f"{module} (floor {mine}) imports from above: {up}"


@pytest.mark.parametrize("module", [module for module in MODULES if floor(module) == WITHOUT_TORCH])
def test_arithmetic_does_without_torch(module: str) -> None:
    reached, waiting = {module}, [module]
    while waiting:
        for name in needs(waiting.pop()) - reached - {"__init__"}:
            reached.add(name)
            waiting.append(name)
    heavy = [
        name
        for name in sorted(reached)
        if any(
            one.split(".")[0] in ("torch", "transformers") for one in imports(MODULES[name].read_text(), name)
        )
    ]
    assert not heavy, f"{module} reaches torch through {heavy}"


def test_the_package_imports_nothing_when_it_is_imported() -> None:
    tree = ast.parse(MODULES["__init__"].read_text())
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {name.split(".")[0] for node in at_once for name in imports(ast.unparse(node), "__init__")} <= {
        "__future__",
        "importlib",
        "typing",
    }


def test_this_test_can_fail() -> None:
    source = (
        "def f():\n    from outgrow.cli import main\n    from . import sibling\n    from ..plan import plan\n"
    )
    assert list(imports(source, "store.grown")) == [
        "outgrow.cli.main",
        "outgrow.store.sibling",
        "outgrow.plan.plan",
    ]
    assert inside("outgrow.plan.plan") == "plan"
    assert floor("store.grown") == 6
    assert floor("nowhere") is None
