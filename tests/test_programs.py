"""Programs outside the package import what is there: benchmarks and examples run by hand, so nothing else would tell."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(
    path for folder in ("benchmarks", "examples", "tools") for path in (ROOT / folder).rglob("*.py")
)


def imported(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every `from outgrow... import name`, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "outgrow":
            yield from ((str(node.module), one.name) for one in node.names)


def missing(source: str) -> list[str]:
    """The imports of a program that find nothing."""
    found = []
    for module, name in imported(source):
        try:
            holder = importlib.import_module(module)
            if not hasattr(holder, name):
                importlib.import_module(f"{module}.{name}")
        except ModuleNotFoundError:
            found.append(f"{module}.{name}")
    return found


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_program_imports_what_is_there(path: Path) -> None:
    assert not missing(path.read_text())


def test_this_test_can_fail() -> None:
    assert missing("def f():\n    from outgrow.models.library import nothing") == [
        "outgrow.models.library.nothing"
    ]
    assert missing("from outgrow.models import nowhere, library") == ["outgrow.models.nowhere"]
    assert not missing("import outgrow\nfrom torch import nothing")
