"""docs/reference/checked.md, from a run of the check on every type: `python -m outgrow.report.architectures_page FILE`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from outgrow.models.architecture import architecture_of, load_architecture
from outgrow.models.bare import bare_class
from outgrow.models.files import known
from outgrow.models.spec import ArchitectureSpec
from outgrow.proof.guard import Check, check

_HEAD = """# What was checked

Written by `python -m outgrow.report.architectures_page docs/reference/checked.md`. The example of every architecture file is grown by the
basic width operators, with silent layers added. Weights are random, in float64, and every cast to float32 inside the model is raised to float64.

- *gap*: max |Δlogits| / max |logits|.
- *law*: the worst tensor's ‖g\' − transport(g)‖ / ‖transport(g)‖. A bias whose gradient vanishes is rounding, up to 1e-10.
- *not promised*: what the plan says before anything is computed. Every other number is a promise that held.
- *units*: how far logits move when the units of all axes change places, as the signatures say.

`cait`, of timm, is tested in a process of its own (tests/test_cait.py).
"""


_WITHOUT_HEADS = """
## Without the head

The class of every type that ends in hidden states, by the example of its file. *gap* is here the largest difference of scores that a
fixed random head gives to its outputs, or of new units from the old ones that they copy.
"""


def checks_page(checks: Iterable[Check], bare: Iterable[Check]) -> str:
    """The page: a line per model type and operator, and a line per class without a head."""
    heading = [
        "| model type | units | sizes | operator | gap | law | not promised |",
        "|---|---|---|---|---|---|---|",
    ]
    headed = [line for found in checks for line in _lines(found)]
    headless = [line for found in bare for line in _lines(found)]
    return "\n".join([_HEAD, *heading, *headed, _WITHOUT_HEADS, *heading, *headless, ""])


def _lines(found: Check) -> Iterator[str]:
    name = f"`{found.model_type}` | {found.units:.0e}"
    for one in found.growths:
        sizes = ", ".join(f"{field} {size}" for field, size in one.sizes.items())
        gap = f"{one.function:.0e}" if one.promises_function else f"*{one.function:.0e}*"
        law = f"{one.law:.0e}" if one.promises_law else f"*{one.law:.0e}*"
        yield f"| {name} | {sizes} | {one.operator} | {gap} | {law} | {'; '.join(one.why)} |"
    for operator, why in found.refused.items():
        yield f"| {name} | | {operator} | | | refused: {_first(why)} |"


def _first(text: str) -> str:
    return text.splitlines()[0].replace("|", "\\|")


def main() -> None:
    """Check every type and write the page."""
    types = [name for name in known() if load_architecture(name).library == "transformers"]
    checks = [check(load_architecture(name)) for name in types]
    bare = [check(spec, ("isometric",)) for name in types if (spec := headless(name)) is not None]
    Path(sys.argv[1]).write_text(checks_page(checks, bare))
    failed = [one.model_type for one in (*checks, *bare) if not one.holds]
    sys.exit(f"a promise fails: {', '.join(failed)}" if failed else 0)


def headless(model_type: str) -> ArchitectureSpec | None:
    """The architecture of a type's class without a head; None where it is the class of the file."""
    made = bare_class(load_architecture(model_type))
    return None if made is None else architecture_of({"model_type": model_type, "architectures": [made]})


if __name__ == "__main__":
    main()
