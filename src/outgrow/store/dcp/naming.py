"""What a trainer calls the tensors of a model, as data: the tables in `src/outgrow/namings`.

model.layers.{L}.mlp.up_proj.weight  ->  layers.{L}.feed_forward.w3.weight          and an order of rows, where it has its own
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, cast

import yaml
from torch import Tensor

from outgrow.errors import CheckpointError
from outgrow.models.architecture import resolve
from outgrow.store.dcp.source import row_order

_STACKED = "[L]"


@dataclass(frozen=True, eq=False)
class Address:
    """What a tensor is called in a folder; `layer` and `rows` as in `DcpPlace`."""

    key: str
    layer: int | None = None
    rows: Tensor | None = None


@dataclass(frozen=True)
class Naming:
    """How one trainer names what it saves."""

    trainer: str
    weight: str
    """What the folder calls a weight, `{key}` being the model's own key."""
    state: str
    """What it calls a slot of the optimizer."""
    others: tuple[str, ...]
    """How keys begin that are neither weights nor belong to the optimizer's tensors."""
    option: str = ""
    """An option of the optimizer; `{key}` is the parameter's key, `{group}` the number of its group."""
    master: str = ""
    """What it calls a weight in full precision, where the weight itself is a rounded copy."""
    writes: bool = True
    models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Model type, then name in memory, to the model's own key and the order of its rows; none where names are the same."""

    @property
    def grouped(self) -> bool:
        """Whether options are kept by group, and not by parameter."""
        return "{group}" in self.option

    def addresses(self, config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Address]:
        """The key, layer and rows of every parameter that is named."""
        if not self.models:
            return {name: Address(name) for name in names}
        model_type = str(config["model_type"])
        if model_type not in self.models:
            raise CheckpointError(
                f"outgrow does not know how {self.trainer} names a {model_type}",
                expected=", ".join(sorted(self.models)),
                fix=f"add a table to src/outgrow/namings/{self.trainer}.yaml",
            )
        sizes = resolve(config).sizes
        orders: dict[str, Tensor] = {}
        return {name: self._address(self.models[model_type], name, sizes, orders) for name in names}

    def _address(
        self,
        table: Mapping[str, str],
        name: str,
        sizes: Mapping[str, int],
        orders: dict[str, Tensor],
    ) -> Address:
        found = re.search(r"\.(\d+)\.", name)
        layer = found[1] if found else ""
        entry = table.get(name.replace(f".{layer}.", ".{L}.", 1) if layer else name)
        if entry is None:
            raise CheckpointError(f"outgrow does not know what {self.trainer} calls {name}")
        key, _, order = entry.partition(" rows ")
        if order and order not in orders:
            orders[order] = row_order(order, sizes)
        stacked = int(layer) if key.endswith(_STACKED) else None
        return Address(key.removesuffix(_STACKED).replace("{L}", layer), stacked, orders.get(order))


@cache
def naming(trainer: str) -> Naming:
    """The table of a trainer.

    >>> naming("torchtitan").addresses({"model_type": "gpt2"}, ())
    Traceback (most recent call last):
    ...
    outgrow.errors.CheckpointError: outgrow does not know how torchtitan names a gpt2
      expected: llama, qwen3
      to do:    add a table to src/outgrow/namings/torchtitan.yaml
    """
    text = (files("outgrow") / "namings" / f"{trainer}.yaml").read_text(encoding="utf-8")
    content = cast(dict[str, Any], yaml.safe_load(text))
    return Naming(trainer, **{**content, "others": tuple(content["others"])})
