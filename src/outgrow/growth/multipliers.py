"""Learning-rate multipliers under which training commutes with growth (docs/explanation/maths.md).

A small model's step Δ must arrive in the large weight as F_o Δ G_iᵀ. What the large optimizer makes of the grown
gradient G_o g F_iᵀ depends on the kind of its update, and the multiplier is what is missing:

    AdamW, Lion   moves every entry by about one learning rate     F_o · G_i               1/in
    SGD           moves by the momentum itself                     (F_o/G_o) · (G_i/F_i)   out/in
    Muon          moves by the orthogonalised momentum             ‖F_o‖ · ‖G_i‖           √(out/in)
    Adafactor     as AdamW, times the weight's root mean square    1                       1

The last column is duplication. Isometric maps (G = F) make SGD's and Muon's 1 at any width. A tensor whose copies are too
uneven for one number is an error. Multiply the learning rate, and divide weight decay and Adam's eps as docs/explanation/maths.md says.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from outgrow.algebra.linear import LinearMap, Select
from outgrow.errors import GrowthError, near
from outgrow.growth.plan import GrowthPlan, plan

Optimizer = Literal["AdamW", "Lion", "SGD", "Muon", "Adafactor"]


def multipliers(growth_plan: GrowthPlan, optimizer: Optimizer = "AdamW") -> dict[str, float]:
    """Every tensor's multiplier for this optimizer (Muon: of the matrices alone).

    Raises GrowthError where it is not one number per tensor.
    """
    kept = [
        name
        for name, parameter in growth_plan.large.parameters.items()
        if optimizer != "Muon" or len(parameter.signature.dims) == 2
    ]
    dual = growth_plan if growth_plan.moments == "transport" else plan(growth_plan.growth)
    return {name: multiplier(dual, name, optimizer) for name in kept}


def multiplier(growth_plan: GrowthPlan, name: str, optimizer: Optimizer = "AdamW") -> float:
    """One tensor's multiplier; `growth_plan` transports moments. 1 for a tensor that begins anew."""
    if optimizer not in _FACTORS:
        raise GrowthError(
            f"no multipliers for the optimizer '{optimizer}'", expected=near(optimizer, _FACTORS)
        )
    weight, momentum = (growth_plan.recipes[slot][name].terms for slot in ("weight", "exp_avg"))
    if not weight or not momentum:
        return 1.0
    value = 1.0
    for one, other in zip(weight[0].maps, momentum[0].maps, strict=True):
        value *= _FACTORS[optimizer](name, _copies(name, one), _copies(name, other))
    return value


def muon_rate(shape: tuple[int, ...], adjust_lr_fn: str | None = None) -> float:
    """By how much torch's Muon itself multiplies the learning rate of a matrix of this shape (torch.optim.Muon).

    It changes when the matrix grows: the multiplier to set is `multiplier * muon_rate(small) / muon_rate(large)`.

    >>> muon_rate((64, 16)), muon_rate((16, 64))
    (2.0, 1.0)
    """
    rows, columns = shape
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * sqrt(max(rows, columns))
    return sqrt(max(1.0, rows / columns))


def _even(name: str, weight: Select, momentum: Select) -> float:
    return _one_number(name, weight.weight[weight.covered()])


def _ratio(name: str, weight: Select, momentum: Select) -> float:
    both = weight.covered() & momentum.covered()
    return _one_number(name, weight.weight[both] / momentum.weight[both])


def _norm(name: str, weight: Select, momentum: Select) -> float:
    _ratio(name, weight, momentum)  # the columns of F and G point the same way
    return _one_number(name, _per_unit(weight, weight.weight.square()).sqrt())


def _scaled(name: str, weight: Select, momentum: Select) -> float:
    _even(name, weight, momentum)
    _one_number(
        name, _per_unit(weight, torch.ones_like(weight.weight))
    )  # else the root mean square depends on W
    return 1.0


_FACTORS: dict[str, Callable[[str, Select, Select], float]] = {
    "AdamW": _even,
    "Lion": _even,
    "SGD": _ratio,
    "Muon": _norm,
    "Adafactor": _scaled,
}


def _copies(name: str, map_: LinearMap) -> Select:
    found = map_.one_hot
    if found is None:
        raise GrowthError(f"'{name}' does not grow by copies: no learning-rate multiplier fits")
    return found


def _per_unit(map_: Select, values: Tensor) -> Tensor:
    """Sum of `values` over the copies of each old unit."""
    here = map_.covered()
    return torch.zeros(map_.units, dtype=torch.float64).index_add_(0, map_.index[here], values[here])


def _one_number(name: str, values: Tensor) -> float:
    if float((values - values[0]).abs().max()) > 1e-12:
        raise GrowthError(f"'{name}' has copies of unequal weight: no single learning-rate multiplier fits")
    return float(values[0])
