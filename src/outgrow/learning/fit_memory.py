"""How much memory the fit of an operator needs, above Python's own, from the two models' sizes alone.

    the small weights in float32, and their layers once more as stacks
    the operator's numbers, their gradients and two moments each
    what making the large weights keeps for the backward pass, counted on the meta device, and the gradients of what is made
    a training step's activations and logits of the large model (cost/memory.py)

Mapped files of the checkpoint are not counted: the system takes their pages back where it needs them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from outgrow.cost.flops import model_cost
from outgrow.cost.memory import training_memory
from outgrow.learning.grown_model import hollow_values, tables
from outgrow.methods.learned.form import OperatorForm, Values

_FLOAT32 = 4


def fit_memory(form: OperatorForm, values: Values, *, sequences: int, sequence_length: int) -> int:
    """Bytes at the peak of a fit on `sequences` of `sequence_length` at once."""
    large, stacks = form.large.config, hollow_values(form)
    length = model_cost(large).length or sequence_length
    step = training_memory(large, sequences=sequences, sequence_length=length)
    layers = sum(value.numel() for pattern, value in stacks.items() if "{L}" in pattern)
    free = sum(value.numel() for value in values.values())
    weights = _FLOAT32 * (form.small.num_parameters + layers + 4 * free)
    return weights + _making_memory(form, values, stacks) + step.activations + step.logits


def _making_memory(form: OperatorForm, values: Values, stacks: dict[str, Tensor]) -> int:
    """Bytes of the large weights, what their making keeps beside them, and their gradients: of the largest kind twice."""
    numbers = {name: value.to("meta").requires_grad_() for name, value in values.items()}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, keep):
        made = form.grown(numbers, stacks, frozenset(tables(form)))
    given = _storages([*stacks.values(), *numbers.values()])
    outputs = [size for place, size in _storages(made.values()).items() if place not in given]
    held = {place: size for place, size in _storages([*kept, *made.values()]).items() if place not in given}
    return sum(held.values()) + sum(outputs) + max(outputs, default=0)


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of each piece of memory that tensors lie in."""
    return {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}
