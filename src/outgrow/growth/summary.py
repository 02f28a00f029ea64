"""A growth in words: what is kept, which layer copies which, and which sizes stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from outgrow.algebra.maps import LayerMap
from outgrow.growth.finding import Finding
from outgrow.models.architecture import growable
from outgrow.models.expressions import got, size_of
from outgrow.models.model import Model
from outgrow.text.table import TextTable

_RUN = 4
"""Layers in a row that are worth writing as a range."""


def findings_table(findings: Sequence[Finding], *, noisy: bool = False) -> TextTable:
    """What a growth does to every axis that it touches; noise parts copies, so gradients are kept but for it."""
    columns = (
        "axis",
        "size",
        "passes through",
        "function",
        "gradients",
        "compensated where; why not where not",
    )
    rows = [
        (
            finding.axis,
            f"{finding.small} → {finding.large}",
            finding.through,
            _mark(finding.function),
            _mark(finding.gradient) + ", but for noise" * (noisy and finding.gradient),
            "; ".join(filter(None, [finding.compensated, finding.why])) or "-",
        )
        for finding in findings
    ]
    return TextTable("what grows, and what is kept", columns, rows, numbers=False)


def layer_order(layers: LayerMap) -> str:
    """Which old layer each new one copies, from the bottom to the top; `*` marks a silent one, `new` one that copies none.

    >>> layer_order(LayerMap.of([0, 1, 1, 2, 2], silent=[2, 4]))
    '0 1 1* 2 2*'
    >>> layer_order(LayerMap.of([*range(12), *range(12)]))
    '0-11 0-11'
    """
    return " ".join(_runs([_origin(layers, layer) for layer in range(layers.large)]))


def sizes_of(model: Model) -> dict[str, int]:
    """Every size that may grow, by its config field: `{"num_hidden_layers": 5, "hidden_size": 64, ...}`."""
    found = {}
    for name in growable(model.spec):
        value = got(model.config, name)
        if value is None and name in model.spec.pin:
            value = size_of(model.spec.pin[name], model.config)
        if isinstance(value, int):
            found[name] = value
    return found


def _mark(kept: bool) -> str:
    return "kept" if kept else "changes"


def _origin(layers: LayerMap, layer: int) -> str:
    row = layers.rows[layer]
    if not row:
        name = "new"
    elif len(row) == 1 and row[0][1] == 1.0:
        name = str(row[0][0])
    else:
        name = "(" + " + ".join(f"{weight:.3g}·{old}" for old, weight in row) + ")"
    return name + "*" * (layer in layers.silent)


def _runs(names: Sequence[str]) -> Iterator[str]:
    """Names, with four and more that count upwards written as a range."""
    first = 0
    while first < len(names):
        last = first
        while (
            last + 1 < len(names)
            and names[last].isdigit()
            and names[last + 1].isdigit()
            and int(names[last + 1]) == int(names[last]) + 1
        ):
            last += 1
        if last - first + 1 >= _RUN:
            yield f"{names[first]}-{names[last]}"
        else:
            yield from names[first : last + 1]
        first = last + 1
