"""A module imports only from its own floor and those below it (CONTRIBUTING.md), and every module is in a room."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import outgrow

ROOT = Path(outgrow.__file__).parent
ROOMS = (
    "errors",
    "text",
    "files",
    "algebra",
    "models",
    "store",
    "parallel",
    "growth",
    "cost",
    "methods",
    "state",
    "run",
    "data",
    "proof",
    "engine",
    "planning",
    "learning",
    "training",
    "comparing",
    "report",
    "commands",
    "api",
    "cli",
    "__main__",
    "__init__",
)
"""The rooms of the house, each on a floor of its own, the lowest first."""
LOOSE = {"errors", "cli", "__main__", "__init__"}
"""The only files outside a room. A new one goes into a room, or becomes one."""
ARITHMETIC = (
    "cost",
    "run.schedule",
    "run.reentry",
    "planning.laws",
    "planning.curves",
    "planning.stages",
)
"""Costs, schedules and laws are arithmetic: these modules, and all that they import here, do without torch."""


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
    room = module.split(".")[0]
    return ROOMS.index(room) if room in ROOMS else None


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


@cache
def needs(module: str) -> set[str]:
    """Modules of ours that a module imports."""
    found = {inside(name) for name in imports(MODULES[module].read_text(), module)}
    return {name for name in found if name is not None and name != module}


@cache
def uses_torch(module: str) -> bool:
    """Whether a module itself imports torch or transformers."""
    used = imports(MODULES[module].read_text(), module)
    return any(name.split(".")[0] in ("torch", "transformers") for name in used)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_on_a_floor(module: str) -> None:
    assert floor(module) is not None, f"put the room of '{module}' among ROOMS in tests/test_floors.py"


def test_a_floor_names_only_what_is_there() -> None:
    assert set(ROOMS) == {name.split(".")[0] for name in MODULES}


def test_no_file_is_loose() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == LOOSE


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__"])
def test_no_import_looks_up(module: str) -> None:
    mine = floor(module)
    assert mine is not None
    up = {name: floor(name) for name in needs(module) if name != "__init__" and (floor(name) or 0) > mine}
    assert not up, f"{module} (floor {mine}) imports from above: {up}"


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(ARITHMETIC)])
def test_arithmetic_does_without_torch(module: str) -> None:
    reached, waiting = {module}, [module]
    while waiting:
        for name in needs(waiting.pop()) - reached - {"__init__"}:
            reached.add(name)
            waiting.append(name)
    heavy = [name for name in sorted(reached) if uses_torch(name)]
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
    source = "def f():\n    from outgrow.cli import main\n    from . import sibling\n    from ..growth.plan import plan\n"
    assert list(imports(source, "store.writer")) == [
        "outgrow.cli.main",
        "outgrow.store.sibling",
        "outgrow.growth.plan.plan",
    ]
    assert inside("outgrow.growth.plan.plan") == "growth.plan"
    assert floor("store.writer") == ROOMS.index("store")
    assert floor("nowhere") is None
