"""One optimizer step on plain PyTorch: where it runs, in which precision, compiled or not, and what makes it repeatable.

A step's batch is cut into micro-batches with fixed numbers. Part r of n does every n-th of them from the r-th on: a rank, or a
tensor group of them. Their randomness (dropout) comes from (seed, step, number), and losses are summed in the order of their numbers:

    loss = Σ_number loss_number / targets of the step        (float64)

so neither depends on the number of ranks, and a run needs no saved generator to continue exactly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.data.objectives import IGNORED, Batch, Objective, objective_of, summed_loss
from outgrow.errors import ConfigError
from outgrow.models import library as models
from outgrow.models.architecture import resolve
from outgrow.models.routing import coefficient, correct, loads, watched
from outgrow.parallel.mesh import DataPart
from outgrow.parallel.pieces import local
from outgrow.parallel.ranks import ALONE, Ranks
from outgrow.parallel.sharding import Sharding, clip_gradients, let_go, make_mesh, send_gradients, total_norm
from outgrow.run.config import ParallelConfig, RunConfig

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_MOST_GRAPHS = 1024
"""For different batches, with and without gradients, and perhaps for every layer; beyond them torch would go on uncompiled."""


@dataclass(frozen=True)
class Device:
    """Where a run computes and with which other ranks, in which precision, and what is done to the models that it trains."""

    name: str
    bf16: bool
    compiled: bool = False
    ranks: Ranks = ALONE
    sharding: Sharding | None = None
    """How models are cut among the ranks; None where there is one."""
    saves_activations: bool = True
    """Else every layer's are computed again in the backward pass."""

    def place(self, model: nn.Module) -> nn.Module:
        """A model to be trained, on this device; where that was asked for, its layers are compiled at their first batch.

        Layer by layer: they are alike, so one is compiled for all. Shapes are never made symbolic: a run that was
        continued would have seen other ones, and must compute the same bits.
        """
        model = model.to(self.name)
        self._prepare(model)
        return model

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """A model of a `config.json`, this rank's part of it on this device, with weights that are still to be filled."""
        model: nn.Module = models.hollow_model(config)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self._prepare(model)
        if self.sharding is None:
            _make_room(model, self.name)
            return model.to(self.name)
        self.sharding.apply(model, resolve(config).layer_modules.values())
        model.to_empty(device=self.name)
        for name, buffer in model.named_buffers():
            local(buffer).copy_(buffers[name])
        return model

    def _prepare(self, model: nn.Module) -> None:
        if not self.saves_activations:
            models.checkpoint_activations(model)
        if self.compiled:
            torch.compiler.reset()  # what was compiled for models before this one
            dynamo = torch._dynamo.config
            dynamo.recompile_limit = dynamo.accumulated_recompile_limit = _MOST_GRAPHS
            for name in resolve(models.config_of(model)).layer_modules.values():
                model.get_submodule(name).compile(dynamic=False)

    @property
    def part(self) -> DataPart:
        """Which micro-batches of a step this rank does."""
        return DataPart() if self.sharding is None else self.sharding.sizes.part(self.ranks.rank)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, on the processor; ranks that did the same micro-batches count once."""
        values = values.cpu()
        return self.ranks.sum(values if self.part.counts else torch.zeros_like(values))

    def at(self, own: RunConfig) -> Device:
        """The same for a stage with a precision of its own (`run.at(stage)`). Raises ConfigError where there is none such here."""
        bf16 = _is_bf16(own, self.name)
        if bf16 == self.bf16:
            return self
        sharding = self.sharding
        if sharding is not None:
            sharding = replace(sharding, parameters=_sent(own.parallel, bf16))
        return replace(self, bf16=bf16, sharding=sharding)

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass's precision; weights and moments stay float32."""
        return torch.autocast(self.name, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def describe(self) -> str:
        """For people: the device's own name, or the processor's threads."""
        name = (
            torch.cuda.get_device_name() if self.name == "cuda" else f"cpu, {torch.get_num_threads()} threads"
        )
        words = [name, "bf16 autocast" if self.bf16 else "float32"]
        words += ["compiled"] if self.compiled else []
        words += [self.sharding.describe()] if self.sharding is not None else []
        return ", ".join(words)


def _make_room(model: nn.Module, device: str) -> None:
    """Uninitialized memory for parameters on the meta device."""
    rooms = {hollow: torch.empty_like(hollow, device=device) for hollow in model.parameters()}
    made = {one: nn.Parameter(room, requires_grad=one.requires_grad) for one, room in rooms.items()}
    models.replace_parameters(model, made)


def choose_device(config: RunConfig, ranks: Ranks = ALONE) -> Device:
    """The device and precision of a run; `auto` takes CUDA, and bf16 only where CUDA has it."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda is not available here", fix="set device to auto or cpu")
    name = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    bf16 = _is_bf16(config, name)
    sharding = None if ranks.alone else _sharding(config.parallel, ranks, name, bf16)
    saves = not config.parallel.activation_checkpointing
    return Device(name, bf16, config.compile, ranks, sharding, saves)


def _is_bf16(config: RunConfig, device: str) -> bool:
    """Whether a run computes in bf16 there; `auto` only where CUDA has it."""
    cuda = device == "cuda"
    has_bf16 = not cuda or torch.cuda.is_bf16_supported(including_emulation=False)
    if config.precision == "bf16" and not has_bf16:
        raise ConfigError(
            "precision: this GPU has no bf16",
            got=torch.cuda.get_device_name(),
            fix="set precision to float32",
        )
    return config.precision == "bf16" or (config.precision == "auto" and cuda and has_bf16)


def _sharding(config: ParallelConfig, ranks: Ranks, device: str, bf16: bool) -> Sharding:
    return Sharding(
        make_mesh(config.mesh(ranks.world), device),
        config.reshard_after_forward,
        _sent(config, bf16),
        _DTYPES[config.gradients],
    )


def _sent(config: ParallelConfig, bf16: bool) -> torch.dtype:
    """What weights are gathered and computed in."""
    return (
        _DTYPES["bfloat16" if bf16 else "float32"]
        if config.parameters == "auto"
        else _DTYPES[config.parameters]
    )


def check_compiler(device: Device) -> None:
    """Raise ConfigError where models are to be compiled and torch cannot: it wants a C++ compiler, or Triton on CUDA."""
    if not device.compiled:
        return
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device.name))
    except Exception as error:  # a missing compiler is an error of another kind on every device
        raise ConfigError(
            "compile: torch cannot compile here",
            got=next((line for line in str(error).splitlines() if line.strip()), type(error).__name__),
            fix="install a C++ compiler (on CUDA also Triton), or leave compile out",
        ) from None


def be_repeatable() -> None:
    """Deterministic kernels only: the same steps give the same bits on the same machine."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it costs a write of every buffer
    torch.backends.cudnn.benchmark = False


def build_for_training(content: dict[str, Any], device: str = "cpu") -> nn.Module:
    """A `transformers` model in float32 with fresh weights from torch's current generator."""
    with torch.device(device):
        model: nn.Module = models.build_model(content, torch.float32)
        return model.float()


def predict(model: nn.Module, batch: Batch, device: Device) -> Batch:
    """Logits, and the targets that they are held against, on the model's device."""
    inputs, targets = batch
    with device.autocast():
        logits, asked = _objective(model).scores(model, inputs.to(device.name, non_blocking=True), targets)
    return logits, asked.to(device.name, non_blocking=True)


def _objective(model: nn.Module) -> Objective:
    return objective_of({"model_type": models.model_type_of(model)})


@dataclass(frozen=True)
class Step:
    """What one optimizer step saw: mean loss in nats per target, and the gradient's norm before clipping."""

    loss: float
    gradient_norm: float
    routing: tuple[float, ...] = ()
    """Of a model with experts, the values of `routing.NAMES`."""


@dataclass(frozen=True)
class Lesson:
    """A teacher's say in a step: loss · (1 - weight) + weight · its divergence."""

    weight: float
    divergence: Callable[[Batch, Tensor, Tensor], Tensor]
    """Of the model's scores from the teacher's on the same inputs, summed over the targets in nats."""


def step_seed(seed: int, step: int, micro_batch: int = 0) -> int:
    """What torch's random numbers of a micro-batch of a step begin with.

    The processor's generator takes the lower 32 bits alone, so an odd factor keeps micro-batches apart there.
    """
    return (seed * 1_000_003 + step + micro_batch * 0x9E3779B97F4A7C15) % 2**63


def optimizer_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    learning_rate: float,
    micro_batch: int,
    clip: float | None,
    device: Device,
    seed: tuple[int, int],
    update: AbstractContextManager[None] | None = None,
    balancing: float | None = None,
    bias_rate: float = 0.0,
    lesson: Lesson | None = None,
) -> Step:
    """Gradients of a whole batch, in pieces, then one update; nothing is updated where the loss is not finite.

    `update` is entered around the optimizer's own step (see `boost`). `balancing` multiplies the balancing loss of a model with
    experts; None is the model's own coefficient. The loss that is returned is without it. `bias_rate` is the step of loss-free
    balancing, where a router has a selection bias. `lesson` is what a teacher adds; the loss that is returned is without it too.
    """
    model.train()
    optimizer.zero_grad(set_to_none=True)
    inputs, targets = batch
    count = int((targets != IGNORED).sum())
    starts = range(0, len(inputs), micro_batch)
    losses = torch.zeros(len(starts), 2, dtype=torch.float64, device=device.name)
    share = coefficient(model, balancing)
    part = device.part
    mine = range(part.number, len(starts), part.of)
    with watched(model) as seen:
        for number in mine:
            piece = slice(starts[number], starts[number] + micro_batch)
            torch.manual_seed(step_seed(*seed, number))
            send_gradients(model, now=number == mine[-1])
            batch = inputs[piece], targets[piece]
            scores, asked = predict(model, batch, device)
            loss = summed_loss(scores, asked) / count
            losses[number, 0] = loss.detach()
            if lesson is not None:
                taught = lesson.divergence(batch, scores, asked) / count
                loss = (1 - lesson.weight) * loss + lesson.weight * taught
            balance = seen.taken()
            if balance is not None:
                weight = int((targets[piece] != IGNORED).sum()) / count
                losses[number, 1] = balance.detach() * weight
                loss = loss + share * weight * balance if share else loss
            loss.backward()  # type: ignore[no-untyped-call]
    total, balanced = device.sum(losses).sum(0)
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = total_norm([p.grad for p in parameters if p.grad is not None])
    tokens = device.sum(seen.tokens())
    step = Step(
        float(total), float(norm), (float(balanced), *loads(tokens).values()) if tokens.numel() else ()
    )
    if torch.isfinite(total) and torch.isfinite(norm):
        if clip is not None:
            clip_gradients(parameters, clip, norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)
        with update or nullcontext():
            optimizer.step()
        if tokens.numel():
            correct(model, tokens, bias_rate)
    return step


def evaluation_loss(model: nn.Module, batches: Sequence[Batch], device: Device) -> float:
    """Mean loss in nats per target over fixed batches."""
    return measure(model, batches, device)["loss"]


@torch.no_grad()
def measure(model: nn.Module, batches: Sequence[Batch], device: Device) -> dict[str, float]:
    """The objective's metrics over fixed batches: mean loss in nats per target, and for images the share that is right."""
    model.eval()
    part = device.part
    found = torch.zeros(len(batches), 3, dtype=torch.float64)
    for first in range(0, len(batches), part.of):  # every rank is in every pass: a shard is needed by all
        number = first + part.number
        logits, targets = predict(model, batches[min(number, len(batches) - 1)], device)
        if number < len(batches):
            right = (logits.argmax(-1) == targets).sum()
            seen = (summed_loss(logits, targets), right, (targets != IGNORED).sum())
            found[number] = torch.stack([one.double() for one in seen])
    let_go(model)
    loss, right, count = (sum(column) for column in device.sum(found).T.tolist())
    metrics = {"loss": loss / count, "accuracy": right / count}
    return {name: metrics[name] for name in _objective(model).metrics}
