"""The model card of a grown folder: what it was grown from, by which command, what that kept, and how to prove it.

Everything in it is taken from the lineage, so the card of a state is the same wherever it is written.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from outgrow.store.lineage import Lineage, LineageEntry
from outgrow.text.table import TextTable, as_markdown

CARD = "README.md"
_HEAD = """---
library_name: transformers
tags:
- outgrow
- model-growth
---
"""


def model_card(config: Mapping[str, Any], lineage: Lineage) -> str:
    """The card as Markdown; a section per growth, the newest last.

    >>> how = {"width": "pad", "moments": "transport", "noise": 0.1, "seed": 0}
    >>> print(command({"n_layer": 4}, how))
    outgrow grow SMALL LARGE --to n_layer=4 --width pad --moments transport --noise 0.1 --seed 0
    """
    kind = as_markdown(str(config.get("model_type")))
    times = "once" if len(lineage) == 1 else f"{len(lineage)} times"
    lines = [
        _HEAD,
        f"# A {kind} that was grown {times}",
        "",
        "`outgrow` made this model from a smaller one in the middle of its training. What follows is its lineage.",
        "",
    ]
    for place, entry in enumerate(lineage.entries, start=1):
        lines += [f"## Growth {place}", "", *_growth(entry)]
    lines += [
        "## Prove it",
        "",
        "With the smaller model at hand, this measures what the last growth kept:",
        "",
        "```sh",
        "outgrow verify SMALL LARGE",
        "```",
        "",
        "Fill in the training data, the evaluation and the licence: `outgrow` does not know them.",
        "",
    ]
    return "\n".join(lines)


def _growth(entry: LineageEntry) -> list[str]:
    told = entry.conversion
    if told is not None:
        types = as_markdown(f"{told.before} → {told.after}")
        return [f"- Described as another type, {types}, at the same size.", ""]
    small, large = entry.sizes
    rows = [
        (str(name), str(small[name]), str(large[name]))
        for name in large
        if name in small and small[name] != large[name]
    ]
    sizes = TextTable("", ("size", "before", "after"), rows)
    kept = [
        f"- The function was {'kept, up to rounding' if entry.keeps_function else 'changed'}.",
        f"- Gradients of old entries were {'kept' if entry.keeps_gradient_law else 'kept approximately or not'}"
        f"; moments: {as_markdown(entry.moments)}.",
    ]
    why = [f"- {as_markdown(axis)}: {as_markdown(reason)}" for axis, reason in entry.reasons]
    asked = entry.sizes_asked
    run = [""] if asked is None else ["", "```sh", command(asked, entry.operators), "```", ""]
    return [*(sizes.markdown().split("\n")[2:-2] if rows else []), *kept, *why, *run]


def command(to: Mapping[str, Any], how: Mapping[str, Any]) -> str:
    """The command that grows to sizes by options; SMALL and LARGE stand for the two folders."""
    words = ["outgrow", "grow", "SMALL", "LARGE"]
    for name, size in to.items():
        words += ["--to", f"{name}={size}"]
    for name, value in how.items():
        words += [f"--{name.strip('_').replace('_', '-')}", str(value)]
    return shlex.join(words)
