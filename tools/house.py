"""The map of the house, read from the code: `python tools/house.py [--counts] [ROOT]`.

Without an option, every file with the first sentence of its docstring, room by room. With `--counts`, how tidy the
house is: rooms, loose files, the longest room, circles, how often code asks for a class or a kind of axis by name, and
how often a key is asked of a dictionary by its name.
ROOT is a package's folder (src/outgrow by default), so two versions can be compared.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

CLASSES = r"isinstance\([^)]*\b(?:Select|Identity|Dense)\b"
DUG = r"""\.get\(["']|\w\[["'][a-z_]+["']\]"""
KINDS = r"\bthrough\s*(?:==|!=|in\b|not in\b)"


def modules(root: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; a package's own file has the package's name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def needs(path: Path, known: dict[str, Path], package: str) -> Iterator[str]:
    """Modules of the package that a file imports, late imports too, those for type checking alone not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing or not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        first, *rest = node.module.split(".")
        if first != package:
            continue
        for alias in node.names:
            whole = ".".join([*rest, alias.name])
            yield whole if whole in known else ".".join(rest)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components of more than one)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def counts(root: Path) -> None:
    """Print the numbers that say how tidy the house is."""
    known = modules(root)
    texts = {name: path.read_text(encoding="utf-8") for name, path in known.items()}
    lines = {name: text.count("\n") for name, text in texts.items()}
    loose = [name for name, path in known.items() if path.parent == root]
    rooms: dict[str, int] = {}
    for name, path in known.items():
        if path.parent != root:
            room = path.relative_to(root).parts[0]
            rooms[room] = rooms.get(room, 0) + lines[name]
    longest = max(rooms, key=rooms.__getitem__)
    graph = {
        name: {other for other in needs(path, known, root.name) if other in known} - {name}
        for name, path in known.items()
    }
    print(f"rooms                  {len(rooms)}")
    print(f"files outside a room   {len(loose)}: {', '.join(loose)}")
    print(f"lines of Python        {sum(lines.values())}")
    print(
        f"longest room           {longest}, {100 * rooms[longest] / sum(lines.values()):.0f} % of the lines"
    )
    print(f"circles of modules     {len(circles(graph))}")
    asked = {
        "maps asked by class": CLASSES,
        "axes asked by kind": KINDS,
        "keys asked by name": DUG,
    }
    for label, pattern in asked.items():
        hits = {name: len(re.findall(pattern, text)) for name, text in texts.items()}
        print(f"{label:<22} {sum(hits.values())} in {sum(map(bool, hits.values()))} modules")


def files(root: Path) -> None:
    """Print every file with what its docstring says first."""
    for name, path in modules(root).items():
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        print(f"{name:<36} {' '.join(text.split(chr(10) + chr(10))[0].split())}")


if __name__ == "__main__":
    arguments = [word for word in sys.argv[1:] if word != "--counts"]
    place = Path(arguments[0]) if arguments else Path(__file__).parents[1] / "src" / "outgrow"
    (counts if "--counts" in sys.argv else files)(place)
