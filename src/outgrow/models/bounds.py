"""A config is checked before a model is built: a number that can only be a slip, or a trap, would build for hours.

layers <= 1,024   labels <= 1,000,000   every whole number < 2**48   architectures: a list of names

NaN and infinity make logits of NaN, and so do rotary bases and factors <= 0 and a negative eps. JSON has neither, but
`1e400` is infinity in Python. Only a list may hold infinity: the limits of a time step (Mamba).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from outgrow.errors import CheckpointError

MOST_LAYERS = 1024
"""Modules are made one by one: ten milliseconds each."""
MOST_LABELS = 1_000_000
"""transformers keeps a name for each."""
_BELOW = 2**48
CHANCES = ("dropout", "pdrop", "drop_rate", "dropout_prob", "drop_path_rate", "dropout_rate", "layerdrop")
"""How the names of probabilities end, which torch refuses in the middle of a batch."""


def class_names(config: Mapping[str, Any]) -> list[str]:
    """The classes that a config names in `architectures`; none where it names none. Raises CheckpointError for anything else.

    >>> class_names({"architectures": ["BertModel"]}), class_names({})
    (['BertModel'], [])
    """
    names = config.get("architectures")
    if names is None:
        return []
    if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
        raise CheckpointError(
            "architectures of config.json is no list of class names",
            got=names,
            expected='e.g. ["LlamaForCausalLM"]',
        )
    return list(names)


def check_bounds(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a number of a config is out of bounds, or `architectures` is no list of names.

    >>> check_bounds({"num_hidden_layers": 24, "num_labels": 1000})
    >>> check_bounds({"rope_parameters": {"rope_theta": float("inf")}})
    Traceback (most recent call last):
    outgrow.errors.CheckpointError: rope_parameters.rope_theta of config.json is no number to compute with
      got:      inf
      expected: a finite number above 0
    """
    class_names(config)
    for place, value in _numbers(config, ""):
        if wanted := _lacks(place, value):
            what = f"{place} of config.json is no number to compute with"
            raise CheckpointError(what, got=value, expected=wanted)
    _check_sizes(config)


def _check_sizes(config: Mapping[str, Any]) -> None:
    for name, value in config.items():
        most = _most(str(name))
        if isinstance(value, list | dict) and name in ("layer_types", "id2label"):
            value = len(value)
        if type(value) is int and abs(value) > most:
            raise CheckpointError(
                f"{name} is beyond what outgrow builds", got=value, expected=f"at most {most:,}"
            )
        if isinstance(value, Mapping) and name.endswith("_config"):
            _check_sizes(value)


def _most(name: str) -> int:
    if name in ("num_labels", "num_classes", "id2label"):
        return MOST_LABELS
    if ("layer" in name and "per_layer" not in name) or name == "depth":
        return MOST_LAYERS
    return _BELOW - 1


def _numbers(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """Every number of a config with the dotted place that it stands at; those of a list end in `[]`."""
    if type(value) in (int, float):
        yield place, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, f"{place}.{name}".removeprefix("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner, f"{place}[]")


def _lacks(place: str, value: float) -> str:
    """What a number should be, where it is not."""
    *_, name = place.split(".")
    if (name == "rope_theta" or (name == "factor" and "rope" in place)) and not 0 < value < math.inf:
        return "a finite number above 0"
    if name.endswith(("_eps", "_epsilon")) and not 0 <= value < math.inf:
        return "a finite number, not below 0"
    if name.endswith(CHANCES) and not 0 <= value <= 1:
        return "a number from 0 to 1"
    if value != value or (math.isinf(value) and "[]" not in place):
        return "a finite number"
    return ""
