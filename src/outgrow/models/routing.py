"""What experts see while they are trained: the balancing loss, and how evenly tokens fall on them.

    balance = E · Σ_e f_e p_e         f_e tokens per expert and token, p_e mean probability; k where all is even (arXiv 2101.03961)
    load    = tokens of an expert / tokens that it would have if all had as many

The loss that is trained is cross-entropy + coefficient · balance; what is reported as `loss` is the cross-entropy alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.models.architecture import architecture_of, resolve
from outgrow.models.expressions import size_of
from outgrow.models.library import model_tensors
from outgrow.models.model import Parameter
from outgrow.models.spec import RouterSpec

NAMES = ("balance", "load_max", "load_min", "idle")
"""What a row of the log says of the experts: the balancing loss, the highest and lowest load of an expert in any layer, and
the share of experts without a token."""


@dataclass
class Seen:
    """What the forward passes inside `watched` did with their tokens."""

    balance: Tensor | None = None
    """The balancing loss of the last pass, on the graph."""
    counts: list[Tensor] = field(default_factory=list)
    """Tokens per expert, (experts,) for every layer of every pass."""
    shape: tuple[int, int] = (0, 0)
    """Layers that have experts, and experts."""

    def taken(self) -> Tensor | None:
        """The balancing loss of the last pass, once."""
        found, self.balance = self.balance, None
        return found

    def tokens(self) -> Tensor:
        """Tokens per layer and expert, summed over passes."""
        if not self.counts:
            return torch.zeros(self.shape, dtype=torch.float64)
        return torch.stack(self.counts).double().view(-1, *self.shape).sum(0)


def of_experts(parameter: Parameter, router: RouterSpec) -> bool:
    """Whether a tensor stacks experts."""
    return any(router.experts in dim.axes for dim in parameter.signature.dims)


def corrects(parameter: Parameter, router: RouterSpec) -> bool:
    """Whether a tensor is added to a router's scores for choosing alone."""
    return router.correction is not None and parameter.tail == router.correction


def has_experts(model: nn.Module) -> bool:
    """Whether an architecture file says how this model's tokens choose among experts."""
    config: Any = getattr(model, "config", None)
    return config is not None and bool(architecture_of(config.to_dict()).routers)


def coefficient(model: nn.Module, asked: float | None) -> float:
    """Of the balancing loss: what a run asks for, else the model's own `router_aux_loss_coef`; 0 where it has none."""
    if not has_experts(model) or not _has_balance(model):
        return 0.0
    config: Any = model.config
    return float(getattr(config, "router_aux_loss_coef", 0.0) or 0.0) if asked is None else asked


@contextmanager
def watched(model: nn.Module) -> Iterator[Seen]:
    """Inside, every forward pass of a model with experts leaves its balancing loss and its tokens per expert."""
    seen = Seen()
    if not has_experts(model):
        yield seen
        return
    places, router = _modules(model), _router(model)
    if router.weighs == "output":  # else no module is told which experts were chosen
        seen.shape = (len(places), next(iter(places.values())))
    by_logits = _has_balance(model) and router.correction is None
    with ExitStack() as hooks:
        for hook in _balance_hooks(model, seen, count=by_logits) if _has_balance(model) else ():
            hooks.callback(hook.remove)
        for hook in _expert_hooks(model, places, seen) if not by_logits and 0 not in seen.shape else ():
            hooks.callback(hook.remove)
        yield seen


@torch.no_grad()
def correct(model: nn.Module, tokens: Tensor, rate: float) -> None:
    """Loss-free balancing (arXiv 2408.15664): selection biases of experts below an even load rise by `rate`, of others fall.

    `tokens` (layers, experts) are those of a step. A router without a selection bias is left alone.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    router = _router(model)
    if not rate or router.correction is None:
        return
    config: Any = model.config
    tensors = model_tensors(model)
    names = [name for name, one in resolve(config.to_dict()).parameters.items() if corrects(one, router)]
    for name, row in zip(names, tokens, strict=True):
        bias = tensors[name]
        change = ((row.mean() - row).sign() * rate).to(bias.device, bias.dtype).view(bias.shape)
        if isinstance(bias, DTensor):  # cut among ranks, which all have the whole change
            change = distribute_tensor(change, bias.device_mesh, bias.placements, src_data_rank=None)
        bias.add_(change)


def loads(tokens: Tensor) -> dict[str, float]:
    """Highest and lowest load, and the share of experts that got nothing, from tokens (layers, experts).

    >>> loads(torch.tensor([[4.0, 2.0], [6.0, 0.0]]))
    {'load_max': 2.0, 'load_min': 0.0, 'idle': 0.25}
    """
    even = tokens.sum(1, keepdim=True) / tokens.shape[1]
    relative = tokens / even.clamp(min=1e-12)
    return {
        "load_max": float(relative.max()),
        "load_min": float(relative.min()),
        "idle": float((tokens == 0).double().mean()),
    }


def _has_balance(model: nn.Module) -> bool:
    """Whether transformers computes this model's balancing loss."""
    return "output_router_logits" in inspect.signature(type(model).forward).parameters


def _router(model: nn.Module) -> RouterSpec:
    config: Any = model.config
    return next(iter(architecture_of(config.to_dict()).routers.values()))


def _balance_hooks(model: nn.Module, seen: Seen, *, count: bool) -> Iterator[Any]:
    """The model is asked for its router logits, and gives the balancing loss with them; they say what is chosen, too."""
    config: Any = model.config
    active = size_of(_router(model).active, config.to_dict())

    def ask(module: nn.Module, arguments: Any, keywords: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, {**keywords, "output_router_logits": True}

    def take(module: nn.Module, arguments: Any, output: Any) -> None:
        seen.balance = output.aux_loss
        for logits in output.router_logits if count else ():
            chosen = logits.detach().topk(min(active, logits.shape[-1]), dim=-1).indices
            seen.counts.append(torch.bincount(chosen.flatten().cpu(), minlength=logits.shape[-1]))

    yield model.register_forward_pre_hook(ask, with_kwargs=True)
    yield model.register_forward_hook(take)


def _modules(model: nn.Module) -> dict[str, int]:
    """Modules that hold experts, and how many each."""
    config: Any = model.config
    found = resolve(config.to_dict())
    modules: dict[str, int] = {}
    for router in found.spec.routers.values():
        for name, parameter in found.parameters.items():
            if of_experts(parameter, router):
                modules.setdefault(name.rpartition(".")[0], found.sizes[router.experts])
    return modules


def _expert_hooks(model: nn.Module, modules: Mapping[str, int], seen: Seen) -> Iterator[Any]:
    """Modules of experts are called with the places that were chosen for every token."""
    for name, count in modules.items():

        def take(module: nn.Module, arguments: Any, keywords: Mapping[str, Any], count: int = count) -> None:
            places = (one for one in (*arguments, *keywords.values()) if isinstance(one, Tensor))
            chosen = next(one for one in places if not one.is_floating_point())
            seen.counts.append(torch.bincount(chosen.detach().flatten().cpu(), minlength=count))

        yield model.get_submodule(name).register_forward_pre_hook(take, with_kwargs=True)
