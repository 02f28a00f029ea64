"""The optimizers of a run: torch's own, Lion, and Muon with AdamW beside it.

Every group of parameters carries `lr_scale`: the schedule's learning rate is multiplied by it, the weight decay divided,
so that lr · weight_decay is the same for all (docs/explanation/maths.md, Multipliers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.algebra.slots import SLOTS
from outgrow.engine.muon import Muon
from outgrow.errors import CheckpointError
from outgrow.models.architecture import resolve
from outgrow.models.library import meta_model
from outgrow.run.optimizer_config import (
    AdafactorConfig,
    AdamWConfig,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
    SGDConfig,
)
from outgrow.state.live import check_optimizer
from outgrow.state.training_state import TrainingState
from outgrow.store.optimizer_rules import RULE, RULES

Groups = list[dict[str, Any]]


class Lion(torch.optim.Optimizer):
    """Lion, sign descent with an interpolated momentum (arXiv 2302.06675, algorithm 2).

        c = β₁ m + (1 - β₁) g        w ← w - lr (sign c + weight_decay · w)        m ← β₂ m + (1 - β₂) g

    State: `exp_avg` (m). It counts no steps: nothing is corrected for bias.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> weight.grad = torch.tensor([0.1, -3.0])
    >>> Lion([weight], lr=0.25).step()
    >>> weight.tolist()
    [0.75, 1.25]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                average = state["exp_avg"]
                direction = torch.lerp(parameter.grad, average, beta1).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"])
                average.lerp_(parameter.grad, 1 - beta2)
        return loss


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon for some groups and its AdamW for the others, as one optimizer with one state.

    Each group says in `rule` whose it is, so a saved state needs nothing else to be read.
    """

    def __init__(self, muon: Groups, adamw: Groups, *, muon_options: Any, adamw_options: Any) -> None:
        parts: list[torch.optim.Optimizer] = []
        if muon:
            parts.append(Muon(muon, **muon_options))
        if adamw:
            parts.append(torch.optim.AdamW(adamw, **adamw_options))
        for part in parts:
            for group in part.param_groups:
                group[RULE] = type(part).__name__
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # The parts work on this optimizer's groups and state, which a load may have replaced.
        for part in self._parts:
            part.param_groups = [g for g in self.param_groups if g[RULE] == type(part).__name__]
            part.state = self.state
            part.step()
        return loss


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, multipliers: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """The optimizer of a run over a `transformers` model's named parameters: matrices decay, vectors do not.

    `multipliers` scales the learning rate of single tensors (see `outgrow.growth.multipliers`).
    """
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    scales = multipliers or {}
    if isinstance(config, MuonConfig):
        hidden = hidden_matrices(model.config.to_dict())  # type: ignore[union-attr, operator]
        return MuonAdamW(
            _grouped([pair for pair in named if pair[0] in hidden], config, scales),
            _grouped([pair for pair in named if pair[0] not in hidden], config, scales),
            muon_options={
                "momentum": config.momentum,
                "nesterov": config.nesterov,
                "adjust_lr_fn": "match_rms_adamw",
            },
            adamw_options={"betas": config.betas, "eps": config.eps},
        )
    groups = _grouped(named, config, scales)
    match config:
        case AdamWConfig():
            return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps)
        case SGDConfig():
            return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov)
        case LionConfig():
            return Lion(groups, betas=config.betas)
        case AdafactorConfig():
            return torch.optim.Adafactor(groups, beta2_decay=config.beta2_decay, d=config.update_clip)


def hidden_matrices(config: Mapping[str, Any]) -> frozenset[str]:
    """The matrices inside the layers: what Muon is for.

    >>> sorted(hidden_matrices({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7,
    ...     "vocab_size": 11}))[0]
    'transformer.h.0.attn.c_attn.weight'
    """
    parameters = resolve(config).parameters
    return frozenset(
        name for name, one in parameters.items() if one.layer is not None and len(one.signature.dims) == 2
    )


def check_start(state: TrainingState, config: OptimizerConfig) -> None:
    """An error unless a run with this optimizer can go on from a state; bare weights suit every optimizer."""
    if state.optimizer is None:
        return
    model = meta_model(state.config)
    try:
        optimizer = build_optimizer(model, config)
        check_optimizer(state.source, dict(model.named_parameters()), optimizer, state.optimizer)
    except CheckpointError as error:
        raise CheckpointError(f"stages.0.from: {error}") from None


def state_numbers(config: Mapping[str, Any], optimizer: OptimizerConfig) -> int:
    """How many numbers the optimizer of a run keeps for the model of a config."""
    model = resolve(config)
    hidden = hidden_matrices(config) if optimizer.name == "muon" else frozenset[str]()
    total = 0
    for name in model.parameters:
        rule = RULES["Muon" if name in hidden else _RULE_OF[optimizer.name]]
        shape = model.shape(name)
        for slot in rule.slots(shape, optimizer.model_dump()):
            total += torch.Size(SLOTS[slot].shape(shape)).numel()
    return total


_RULE_OF = {"adamw": "AdamW", "sgd": "SGD", "lion": "Lion", "adafactor": "Adafactor", "muon": "AdamW"}


def _grouped(
    named: Sequence[tuple[str, Tensor]], config: OptimizerConfig, multipliers: Mapping[str, float]
) -> Groups:
    """Groups of equal decay and multiplier: matrices first."""
    places: dict[tuple[bool, float], list[tuple[str, Tensor]]] = {}
    for name, value in sorted(named, key=lambda pair: pair[1].ndim < 2):
        places.setdefault((value.ndim >= 2, multipliers.get(name, 1.0)), []).append((name, value))
    return [
        {
            "params": pairs,
            "lr": config.learning_rate * scale,
            "lr_scale": scale,
            "weight_decay": config.weight_decay / scale if decays else 0.0,
        }
        for (decays, scale), pairs in places.items()
    ]
