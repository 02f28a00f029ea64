"""No two public things share one name (CONTRIBUTING.md): one word finds one function, class or type."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping

from test_floors import MODULES, imports, inside

ENTRY = "main"
"""What `python -m` runs: every module that is a program has one."""
COMMANDS = "cli"
"""Typer names a command by its function, so the functions there are the user's words. Nothing imports them."""
OF_THE_CLI = {"app", "main", "FormatOption"}
"""What others may import from there: the program, and its choices for a test."""


def defined(source: str) -> Iterator[str]:
    """Public functions, classes and types at the top of a file; a constant in capitals belongs to its module."""
    for node in ast.parse(source).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names = [name]
            case ast.Assign(targets=targets):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case _:
                names = []
        yield from (name for name in names if not name.startswith("_") and not name.isupper())


def commands(source: str) -> set[str]:
    """Functions that a decorator makes a command of the command line."""
    return {
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        and any(".command" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


def shared(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Names that several modules define, and which."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, source in sources.items():
        own = commands(source) if module == COMMANDS else set()
        for name in dict.fromkeys(defined(source)):
            if name != ENTRY and name not in own:
                places[name].append(module)
    return {name: modules for name, modules in places.items() if len(modules) > 1}


def test_no_two_public_things_share_a_name() -> None:
    found = shared({module: path.read_text() for module, path in MODULES.items()})
    assert not found, f"rename all but one to say what each is: {found}"


def test_commands_are_imported_by_nothing() -> None:
    used = {
        name.rsplit(".", 1)[1]
        for module, path in MODULES.items()
        for name in imports(path.read_text(), module)
        if module != COMMANDS and inside(name) == COMMANDS
    }
    assert used <= OF_THE_CLI


def test_this_test_can_fail() -> None:
    clash = {"store.a": "def load(): ...", "engine.b": "class load: ...", "run.c": "load: type = int"}
    assert shared(clash) == {"load": ["store.a", "engine.b", "run.c"]}
    assert shared({"a": "Box = int", "b": "Box = str"}) == {"Box": ["a", "b"]}
    assert not shared(
        {"a": "def _load(): ...\ndef main(): ...\nNAME = 1", "b": "_load = 1\nmain = 2\nNAME = 2"}
    )
    assert not shared({COMMANDS: "@app.command()\ndef grow(): ...", "state.growing": "def grow(): ..."})
    assert shared({COMMANDS: "def grow(): ...", "state.growing": "def grow(): ..."})
