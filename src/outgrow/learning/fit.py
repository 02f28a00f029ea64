"""The fit of a learned operator: a few steps of the task's loss, with only the operator's numbers trained.

    values ← AdamW(∇ loss(x; grown(values, Θ)))      own learning rate and warm-up; no decay; gradient clipped

LiGO's released code warms up over 10,000 steps and fits for 100, so that its operator hardly moves (notes 2.3), and decays
its numbers towards zero. Here the warm-up is a tenth of the steps, and nothing decays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.data.objectives import head_where_asked, is_masked
from outgrow.engine.progress import Progress, Silent
from outgrow.engine.step import Device, step_seed
from outgrow.errors import TrainingError
from outgrow.growth.plan import plan
from outgrow.learning.grown_model import GrownModel
from outgrow.methods.learned.form import OperatorForm, Values
from outgrow.models.forward import ModelInputs, batch_loss
from outgrow.models.library import build_model
from outgrow.run.learn_options import GRADIENT_CLIP, LearnOptions


@dataclass(frozen=True)
class Fit:
    """The fitted numbers and how they came about."""

    values: dict[str, Tensor]
    losses: tuple[float, ...]
    """Of each step's batch, before the step."""
    loss_small: float
    """Of the small model, on the held-out batches."""
    loss_start: float
    """Of the large model, before the fit, on the same."""
    loss_end: float
    flops: int
    """Of the fit: forward and backward of the large model and of its weights, and the evaluations."""
    seconds: float


def fit(
    form: OperatorForm,
    start: Values,
    small: Mapping[str, Tensor],
    config: Mapping[str, Any],
    batches: Callable[[int], ModelInputs],
    evaluation: Sequence[ModelInputs],
    options: LearnOptions,
    *,
    device: Device | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Train the numbers of a form on `batches(step)`; `small` are the source's weights by name, `config` its config.

    Raises TrainingError where the loss is not finite: the numbers of the step before are lost with it.
    """
    device, progress = device or Device("cpu", False), progress or Silent()
    began = time.monotonic()
    values = {name: value.to(device.name).clone().requires_grad_() for name, value in start.items()}
    grown = GrownModel(form, values, small, plan(form.growth(start), "reset").config, device=device.name)
    optimizer = torch.optim.AdamW(list(values.values()), lr=options.peak, weight_decay=0.0)
    loss_small = fmean(small_losses(config, small, evaluation, device))
    loss_start = mean_loss(grown, evaluation, device)
    losses: list[float] = []
    progress.stage("fit", 0, options.steps)
    tokens = 0
    for step in range(options.steps):
        batch = batches(step)
        tokens += next(iter(batch.values())).numel()
        losses.append(fit_step(grown, optimizer, batch, options, step, device))
        row = {
            "loss": losses[-1],
            "lr": options.rate(step),
            "tokens_per_second": tokens / (time.monotonic() - began),
        }
        progress.step(step + 1, row)
    loss_end = mean_loss(grown, evaluation, device)
    if not isfinite(loss_end):
        raise _diverged(f"after step {options.steps - 1}", loss_end)
    counted = fit_flops(grown, batches(0), evaluation, options.steps, device)
    fitted = {name: value.detach().cpu() for name, value in values.items()}
    seconds = time.monotonic() - began
    return Fit(fitted, tuple(losses), loss_small, loss_start, loss_end, counted, seconds)


def fit_step(
    grown: GrownModel,
    optimizer: torch.optim.Optimizer,
    batch: ModelInputs,
    options: LearnOptions,
    step: int,
    device: Device,
) -> float:
    """One update of the operator's numbers; returns the loss before it."""
    if options.dropout:
        torch.manual_seed(step_seed(options.seed, step))
    grown.model.train(options.dropout)
    optimizer.zero_grad(set_to_none=True)
    loss = _loss(grown, batch, device)
    loss.backward()  # type: ignore[no-untyped-call]
    if not bool(torch.isfinite(loss)):
        raise _diverged(f"at step {step}", float(loss.detach()))
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], GRADIENT_CLIP)
    for group in optimizer.param_groups:
        group["lr"] = options.rate(step)
    optimizer.step()
    return float(loss.detach())


def _diverged(when: str, loss: float) -> TrainingError:
    return TrainingError(
        f"the loss of the fit is not finite {when}",
        got=loss,
        fix="choose a smaller --learning-rate or another --start",
    )


@torch.no_grad()
def mean_loss(grown: GrownModel, batches: Sequence[ModelInputs], device: Device) -> float:
    """Mean loss of the grown model over batches, without dropout."""
    grown.model.eval()
    return fmean(float(_loss(grown, batch, device)) for batch in batches)


@torch.no_grad()
def small_losses(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], batches: Iterable[ModelInputs], device: Device
) -> list[float]:
    """Loss of the small model on each batch."""
    model = build_model(config, dtype=next(iter(weights.values())).dtype).eval()
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
    model.to(device.name)
    return [float(_loss(model, batch, device)) for batch in batches]


@torch.no_grad()
def fit_flops(
    grown: GrownModel, batch: ModelInputs, evaluation: Sequence[ModelInputs], steps: int, device: Device
) -> int:
    """FLOPs of `steps` fitting steps, 3 forward passes each, and of two evaluations; making the weights is counted too."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        _loss(grown, batch, device)
    forward = int(counter.get_total_flops())
    share = sum(next(iter(one.values())).shape[0] for one in evaluation) / next(iter(batch.values())).shape[0]
    return int(forward * (3 * steps + 2 * share))


def _loss(model: nn.Module | GrownModel, batch: ModelInputs, device: Device) -> Tensor:
    """Of a batch, on the device and in its precision; a masked model's head is computed where a label counts."""
    moved = {key: value.to(device.name) for key, value in batch.items()}
    inner = model.model if isinstance(model, GrownModel) else model
    with device.autocast():
        if not is_masked(inner):
            return batch_loss(model, moved)
        with head_where_asked(inner, moved["labels"]) as asked:
            return batch_loss(model, {**moved, "labels": asked})
