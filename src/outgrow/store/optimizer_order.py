"""Which parameter is number i of an optimizer's state that stores no names.

torch numbers parameters as the optimizer was given them: those of group 0, then those of group 1 ...

    Trainer      group 0 decayed, group 1 the rest, each in the order of `named_parameters()`; frozen ones are left out
    one group    the order of `named_parameters()`

The order is that of the transformers that wrote the file (`parameter_orders.yaml` has older ones), and what Trainer decays has changed
too. An answer is given only where one reading alone fits: counts, every shape, and the version that config.json names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from itertools import groupby
from typing import Any

import torch
import yaml
from torch import Tensor

from outgrow.algebra.slots import SLOTS
from outgrow.errors import CheckpointError
from outgrow.models.library import decay_names, meta_model
from outgrow.models.names import ModelNames, Shape
from outgrow.store.safetensors_folder import spellings


@dataclass(frozen=True)
class ParameterPart:
    """A parameter, or the part of one that older models hold apart: unit `unit` of its first dimension, part `part`."""

    name: str
    shape: Shape
    unit: int = -1
    part: int = -1


Reading = tuple[tuple[ParameterPart, ...], ...]
"""The parameters of each group, in their order."""


def read_order(
    where: str,
    groups: Sequence[Sequence[int]],
    state: Mapping[int, Any],
    config: Mapping[str, Any],
    names: ModelNames,
    version: str | None,
) -> Reading:
    """The parameters behind the numbers of `groups`. Raises `CheckpointError` where no reading fits, or several do.

    `version` is that of the transformers that wrote the file, where it is known.
    """
    found: dict[Reading, None] = {}
    for order in _orders(config, names, version):
        for split in _splits(order, config, len(groups)):
            for reading in _aligned(split, groups, state):
                found[reading] = None
                if len(found) > 1:
                    raise CheckpointError(
                        f"{where} stores no names, and its parameters can be read in several ways",
                        got=_difference(*found),
                        fix=_NAMES,
                    )
    if not found:
        raise CheckpointError(
            f"{where} groups its parameters in another way than Trainer, and stores no names",
            got=f"groups of {[len(group) for group in groups]}",
            expected=f"the {len(names.shapes)} parameters of the model, with these shapes, in one group or in Trainer's two",
            fix=_NAMES,
        )
    return next(iter(found))


_NAMES = "build the optimizer from model.named_parameters(), so that it stores param_names"


def decay_rules(config: Mapping[str, Any]) -> tuple[frozenset[str], ...]:
    """The parameters that Trainer has decayed: today's rule first, then those of older versions, then "all matrices".

    Until 4.47 norms other than `nn.LayerNorm` were decayed where their class was not registered; until 4.56 those whose
    names hold neither `layernorm` nor `rmsnorm`.
    """
    model = meta_model(config)
    inner = {
        f"{place}.{name}"
        for place, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    every = [name for name, _ in model.named_parameters()]

    def but(pattern: str) -> frozenset[str]:
        return frozenset(n for n in every if n not in inner and not re.search(pattern, n.lower()))

    matrices = frozenset(name for name, parameter in model.named_parameters() if parameter.dim() > 1)
    today = frozenset(decay_names(model))
    return tuple(dict.fromkeys((today, but("bias"), but("bias|layernorm|rmsnorm"), matrices)))


def in_memory(name: str, names: ModelNames) -> ParameterPart | None:
    """What an older model calls `name`, as the parameter of today or as a part of one; None where it is neither."""
    for spelling in spellings(name, names):
        if spelling in names.shapes:
            return ParameterPart(spelling, names.shapes[spelling])
        if spelling in _parts(names):
            return _parts(names)[spelling]
    return None


def _parts(names: ModelNames) -> dict[str, ParameterPart]:
    return _parts_of(tuple(names.apart.items()), tuple(names.shapes.items()))


@lru_cache(maxsize=4)
def _parts_of(apart: tuple[Any, ...], shapes: tuple[Any, ...]) -> dict[str, ParameterPart]:
    sizes = dict(shapes)
    return {
        word: ParameterPart(owner, (sizes[owner][1] // len(unit), *sizes[owner][2:]), number, place)
        for owner, units in apart
        for number, unit in enumerate(units)
        for place, word in enumerate(unit)
    }


def _orders(
    config: Mapping[str, Any], names: ModelNames, version: str | None
) -> Iterator[tuple[ParameterPart, ...]]:
    """The orders of `named_parameters()` that the writer may have had."""
    old = _older().get(str(config.get("model_type")))
    major = re.match(r"\d+", version or "")
    if old is not None and (major is None or int(major[0]) < old["before"]):
        yield tuple(_expanded(old["names"], names))
    if old is None or major is None or int(major[0]) >= old["before"]:
        yield tuple(ParameterPart(name, shape) for name, shape in names.shapes.items())


@cache
def _older() -> dict[str, Any]:
    text = files("outgrow.store").joinpath("parameter_orders.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def _expanded(patterns: Sequence[str], names: ModelNames) -> Iterator[ParameterPart]:
    """Patterns with {L} and {E} as the parameters of this model."""
    for repeats, block in groupby(patterns, key=lambda pattern: "{L}" in pattern):
        lines = list(block)
        for layer in range(len(names.shapes)) if repeats else [0]:
            found = list(_expanded_experts([line.replace("{L}", str(layer)) for line in lines], names))
            if repeats and not found:
                break
            yield from found


def _expanded_experts(lines: Sequence[str], names: ModelNames) -> Iterator[ParameterPart]:
    for repeats, block in groupby(lines, key=lambda line: "{E}" in line):
        own = list(block)
        for expert in range(max(map(len, names.apart.values()), default=0)) if repeats else [0]:
            for line in own:
                piece = in_memory(line.replace("{E}", str(expert)), names)
                if piece is not None:
                    yield piece


def _splits(order: Sequence[ParameterPart], config: Mapping[str, Any], groups: int) -> Iterator[Reading]:
    """The order as one group, or as two by each of the rules."""
    if groups == 1:
        yield (tuple(order),)
    elif groups == 2:
        for decayed in decay_rules(config):
            yield (
                tuple(piece for piece in order if piece.name in decayed),
                tuple(piece for piece in order if piece.name not in decayed),
            )


def _aligned(split: Reading, groups: Sequence[Sequence[int]], state: Mapping[int, Any]) -> Iterator[Reading]:
    """Every way, two at most, in which each group is its part of the split with some parameters left out."""
    ways = [
        _embeddings(part, [state.get(n) for n in group]) for part, group in zip(split, groups, strict=True)
    ]
    for way in ways[0]:
        if len(ways) == 1:
            yield (way,)
        for other in ways[1] if len(ways) > 1 else ():
            yield way, other


def _embeddings(pieces: Sequence[ParameterPart], entries: Sequence[Any]) -> list[tuple[ParameterPart, ...]]:
    """Up to two ways to give each entry a piece, in order, whose shape it has; the pieces left out were frozen."""
    spare = len(pieces) - len(entries)
    if spare < 0:
        return []
    # last[i] = whether entries[i:] still fit into pieces[place:], kept as the last place where entry i can stand
    last, place = [0] * len(entries), len(pieces)
    for i in range(len(entries) - 1, -1, -1):
        place -= 1
        while place >= 0 and not _fits(entries[i], pieces[place].shape):
            place -= 1
        if place < 0:
            return []
        last[i] = place
    first, place = [0] * len(entries), -1
    for i, entry in enumerate(entries):
        place += 1
        while not _fits(entry, pieces[place].shape):
            place += 1
        first[i] = place
    ways = [tuple(pieces[place] for place in first)]
    if first != last:
        ways.append(tuple(pieces[place] for place in last))
    return ways


def _fits(entry: Any, shape: Shape) -> bool:
    """Whether what the optimizer keeps can be that of a parameter of this shape."""
    if not isinstance(entry, Mapping):
        return True
    return all(
        tuple(value.shape) == SLOTS[slot].shape(shape)
        for slot, value in entry.items()
        if slot in SLOTS and isinstance(value, Tensor)
    )


def _difference(first: Reading, second: Reading) -> str:
    for one, other in zip(first, second, strict=True):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b:
                return f"parameter {number} may be {a.name} or {b.name}"
    return "several readings"
