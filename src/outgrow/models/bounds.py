"""A config is checked before a model is built: a number that can only be a slip, or a trap, would build for hours.

layers <= 1,024   labels <= 1,000,000   every whole number < 2**48   architectures: a list of names
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outgrow.errors import CheckpointError

MOST_LAYERS = 1024
"""Modules are made one by one: ten milliseconds each."""
MOST_LABELS = 1_000_000
"""transformers keeps a name for each."""
_BELOW = 2**48


def check_bounds(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a config's number is beyond all that is built, or `architectures` is no list of names.

    >>> check_bounds({"num_hidden_layers": 24, "num_labels": 1000})
    """
    names = config.get("architectures")
    if names is not None and not (
        isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)
    ):
        raise CheckpointError(
            "architectures of config.json is no list of class names",
            got=names,
            expected='e.g. ["LlamaForCausalLM"]',
        )
    for name, value in config.items():
        most = _most(str(name))
        if isinstance(value, list | dict) and name in ("layer_types", "id2label"):
            value = len(value)
        if type(value) is int and abs(value) > most:
            raise CheckpointError(
                f"{name} is beyond what outgrow builds", got=value, expected=f"at most {most:,}"
            )
        if isinstance(value, Mapping) and name.endswith("_config"):
            check_bounds(value)


def _most(name: str) -> int:
    if name in ("num_labels", "num_classes", "id2label"):
        return MOST_LABELS
    if "layer" in name or name == "depth":
        return MOST_LAYERS
    return _BELOW - 1
