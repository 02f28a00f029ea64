"""The loss of a model that is never whole in memory: a layer's tensors come when it is called, and go when it is done.

memory = what is outside of the layers + the largest layer + activations of one layer, or of the head
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from outgrow.growth.plan import GrowthPlan
from outgrow.models.architecture import resolve
from outgrow.models.forward import ModelInputs, batch_loss
from outgrow.models.library import hollow_model, replace_parameters, saved_buffers
from outgrow.parallel.pieces import fill
from outgrow.proof.probe import probe_large, probe_small, strays
from outgrow.state.training_state import TrainingState

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def streamed(state: TrainingState, dtype: torch.dtype, device: str | torch.device) -> PreTrainedModel:
    """The model of a state, to be called without gradients: its layers hold no weights but while they compute.

    What a layer shares with another, or with what is outside of them, stays.
    """
    model = judged(hollow_model(state.config, dtype))
    names = {parameter: name for name, parameter in model.named_parameters()}
    layers = [model.get_submodule(path) for path in resolve(state.config).layer_modules.values()]
    users: dict[nn.Parameter, set[nn.Module | None]] = {parameter: set() for parameter in names}
    for module, owner in _owners(model, layers).items():
        for parameter in module.parameters(recurse=False):
            users[parameter].add(owner)
    lent = {parameter for parameter, found in users.items() if len(found) == 1 and None not in found}
    _lend(state, model, {one: name for one, name in names.items() if one not in lent}, device)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer if buffer is None else buffer.to(device)
    for name, buffer in saved_buffers(model).items():
        fill(state.source, name, "weight", buffer)
    for layer in layers:
        _come_and_go(state, layer, {one: names[one] for one in layer.parameters() if one in lent}, device)
    return model


@torch.no_grad()
def streamed_loss(
    state: TrainingState,
    plan: GrowthPlan | None,
    batch: ModelInputs,
    dtype: torch.dtype,
    device: str | torch.device,
) -> tuple[float, float]:
    """The loss of a state, and how far its outputs stray; `plan` is that of its growth, None for a small state."""
    model = streamed(state, dtype, device)
    if plan is None:
        probe_small(model, resolve(state.config))
    else:
        probe_large(model, plan)
    here = {
        key: value.to(device, dtype if value.is_floating_point() else None) for key, value in batch.items()
    }
    return float(batch_loss(model, here)), 0.0 if plan is None else strays(model, plan, here)


def judged(model: PreTrainedModel) -> PreTrainedModel:
    """A model as a proof runs it: without dropout, for a proof is about the function, and not about a balancing loss beside it."""
    model.eval()
    config: Any = getattr(model, "config", None)  # timm's models have none
    if getattr(config, "output_router_logits", False):
        config.output_router_logits = False
    return model


def _owners(model: nn.Module, layers: Iterable[nn.Module]) -> dict[nn.Module, nn.Module | None]:
    """The layer that each module is a part of."""
    inside = {module: layer for layer in layers for module in layer.modules()}
    return {module: inside.get(module) for module in model.modules()}


def _come_and_go(
    state: TrainingState,
    layer: nn.Module,
    names: Mapping[nn.Parameter, str],
    device: str | torch.device,
) -> None:
    """Fill a layer's parameters whenever it is called, and empty them when it has returned or failed."""
    lent = dict[nn.Parameter, nn.Parameter]()

    def come(layer: nn.Module, inputs: object) -> None:
        lent.update(_lend(state, layer, names, device))

    def go(layer: nn.Module, inputs: object, output: object) -> None:
        replace_parameters(layer, {real: hollow for hollow, real in lent.items()})
        lent.clear()

    layer.register_forward_pre_hook(come)
    layer.register_forward_hook(go, always_call=True)


def _lend(
    state: TrainingState,
    module: nn.Module,
    names: Mapping[nn.Parameter, str],
    device: str | torch.device,
) -> dict[nn.Parameter, nn.Parameter]:
    """Real parameters in the place of these hollow ones, filled from the state; hollow -> real."""
    made = {one: nn.Parameter(torch.empty_like(one, device=device), requires_grad=False) for one in names}
    replace_parameters(module, made)
    for hollow, real in made.items():
        fill(state.source, names[hollow], "weight", real)
    return made
