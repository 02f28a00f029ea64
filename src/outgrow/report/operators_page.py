"""docs/reference/operators.md, written from the registry: `python -m outgrow.report.operators_page docs/reference/operators.md`.

Everything about one operator stands in its `Operator` entry; the words around it stand in `operators_frame.md` beside this
file. Measured rows are taken from docs/_static/operators.json, {operator: {column: value}}, where a benchmark wrote one.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from outgrow.errors import GrowthError, near
from outgrow.methods.build import DEPTH, EXPERTS, WIDTH, Operator
from outgrow.methods.registry import expected

Measured = Mapping[str, Mapping[str, Any]]
MEASURED = """`python benchmarks/operators.py`: one source, one target of twice the width and depth, the same continuation for every operator;
validation losses in nats per token, settings and picture in [results](../results/index.md). Best first."""


Registry = Mapping[str, Operator]


def render(width: Registry, depth: Registry, experts: Registry, measured: Measured | None = None) -> str:
    """The page as markdown: the frame, with a table and a section per operator where it says so."""
    frame = (files("outgrow.report") / "operators_frame.md").read_text()
    tables: tuple[tuple[str, Registry, Registry], ...] = (
        ("width", width, {}),
        ("depth", depth, width),
        ("experts", experts, {}),
    )
    for kind, registry, above in tables:
        pages = "\n\n".join(section(operator) for operator in registry.values())
        frame = frame.replace(f"<!-- {kind} -->", f"{table(registry, above)}\n\n{pages}")
    return frame.replace("<!-- measured -->", measured_table(measured or {}))


def read_measured(path: Path) -> Measured:
    """Measured rows, if a benchmark wrote any."""
    found: Measured = json.loads(path.read_text()) if path.is_file() else {}
    return found


def table(registry: Mapping[str, Operator], above: Mapping[str, Operator]) -> str:
    """One line per operator; a name that stands `above` on the page too has the second anchor of that name."""
    rows = [
        f"| [`{one.name}`](#{one.name}{'-1' if one.name in above else ''}) | {one.title} | {one.function} | {one.paper} |"
        for one in registry.values()
    ]
    return "\n".join(["| name | what it does | function | source |", "|---|---|---|---|", *rows])


def section(operator: Operator) -> str:
    """Everything about one operator."""
    facts = {
        "Function": operator.function,
        "Gradient law": operator.gradient,
        "Escape": operator.escape,
        "Use": operator.use,
        "Published moments": f"`{operator.published_moments}`",
        "Published schedule": operator.schedule,
        "Options": option_lines(operator),
        "Source": operator.paper,
    }
    tensors = [f"| {name} | {what} |" for name, what in operator.tensors.items()]
    return "\n".join(
        [
            f"### `{operator.name}`",
            "",
            operator.title,
            "",
            "| tensors | what becomes of them |",
            "|---|---|",
            *tensors,
            "",
            *(
                f"- {name}:{'' if text.startswith(chr(10)) else ' '}{text}"
                for name, text in facts.items()
                if text
            ),
        ]
    )


def option_lines(operator: Operator) -> str:
    """An operator's own options as they are written behind its name: what each does, its kind and its default."""
    parameters = inspect.signature(operator.grow).parameters
    return "".join(
        f"\n  - `{operator.name}:{name}=` {operator.options[name]} "
        f"({expected(kind)}; default {_default(parameters[name].default)})"
        for name, kind in operator.kinds.items()
    )


def _default(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def measured_table(measured: Measured) -> str:
    """Rows of numbers, one per operator; nothing where nothing was measured."""
    if not measured:
        return ""
    columns = list(dict.fromkeys(column for row in measured.values() for column in row))
    head = [f"| operators | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    rows = [
        f"| `{name}` | {' | '.join(str(row.get(column, '')) for column in columns)} |"
        for name, row in measured.items()
    ]
    return "\n".join(["## Measured", "", MEASURED, "", *head, *rows, "", ""])


def one(name: str) -> str:
    """The section of one operator, or of the two that share a name. Raises GrowthError for an unknown one."""
    found = [registry[name] for registry in (WIDTH, DEPTH, EXPERTS) if name in registry]
    if not found:
        raise GrowthError(f"unknown operator '{name}' ({near(name, {**WIDTH, **DEPTH, **EXPERTS})})")
    return "\n\n".join(section(operator) for operator in found)


def main(path: Path) -> None:
    """Write the page."""
    measured = read_measured(path.parents[1] / "_static" / "operators.json")
    path.write_text(render(WIDTH, DEPTH, EXPERTS, measured), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
