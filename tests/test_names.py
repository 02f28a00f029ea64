"""No two public things share one name (CONTRIBUTING.md): one word finds one function, class or type."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping

from test_floors import MODULES

ENTRY = "main"
"""What `python -m` runs: every module that is a program has one."""
COMMANDS = "commands"
RUN = "run"
"""Every command is the `run` of its module, there (`tests/test_commands.py`)."""


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


def shared(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Names that several modules define, and which."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, source in sources.items():
        own = {ENTRY, RUN} if module.startswith(f"{COMMANDS}.") else {ENTRY}
        for name in dict.fromkeys(defined(source)):
            if name not in own:
                places[name].append(module)
    return {name: modules for name, modules in places.items() if len(modules) > 1}


def test_no_two_public_things_share_a_name() -> None:
    found = shared({module: path.read_text() for module, path in MODULES.items()})
    assert not found, f"rename all but one to say what each is: {found}"


def test_this_test_can_fail() -> None:
    clash = {"store.a": "def load(): ...", "engine.b": "class load: ...", "run.c": "load: type = int"}
    assert shared(clash) == {"load": ["store.a", "engine.b", "run.c"]}
    assert shared({"a": "Box = int", "b": "Box = str"}) == {"Box": ["a", "b"]}
    assert not shared(
        {"a": "def _load(): ...\ndef main(): ...\nNAME = 1", "b": "_load = 1\nmain = 2\nNAME = 2"}
    )
    assert not shared({f"{COMMANDS}.a": "def run(): ...", f"{COMMANDS}.b": "def run(): ..."})
    assert shared({f"{COMMANDS}.a": "def run(): ...", "state.growing": "def run(): ...", "b": "run = 1"})
