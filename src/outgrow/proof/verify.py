"""What a growth kept, measured on real models and real batches.

Three numbers (docs/explanation/maths.md), and what they rest on:

    function error   |L(large) - L(small)| / L(small)                                   want 0
    gradient law     ‖g' - transport(g)‖ / ‖transport(g)‖ per tensor, old entries        want 0 (exact moments)
    escape           share of the weights outside the small model's subspace after n     want > 0 (copies part)
                     steps: ‖W' - F_o (G_oᵀ W' F_i) G_iᵀ‖ / ‖W'‖

and the size of AdamW's first update in learning rates, for old and for new entries, which says whether the moments and
step counts of new entries are sane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outgrow.algebra.slots import MOMENTS
from outgrow.data.proof_batches import proof_batches
from outgrow.errors import CheckpointError, ConfigError
from outgrow.growth.plan import GrowthPlan
from outgrow.models.architecture import growable, resolve
from outgrow.models.conversion import conversion
from outgrow.models.expressions import got
from outgrow.models.forward import ModelInputs, batch_loss
from outgrow.models.library import build_model
from outgrow.proof.function import judged, streamed
from outgrow.proof.measures import experts_measured, first_updates, gradient_law, is_adams, moved, outside
from outgrow.proof.probe import probe_large, probe_small, strays
from outgrow.proof.saved import unlike
from outgrow.proof.verdict import Report
from outgrow.state.converted_view import ConvertedView
from outgrow.state.converting import converted
from outgrow.state.lineage import described_since, replay
from outgrow.state.training_state import TrainingState, check_state
from outgrow.store.contents import has_moments
from outgrow.store.lineage import LineageEntry
from outgrow.store.source import MemorySource
from outgrow.text.numbers import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Carry = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Gradients under the names of one model type -> under those of another."""

_GRADIENT_TOLERANCE = 1e-4
"""Of the gradient law, per tensor: norms in float32 reach 1e-5 (tests/battery/test_exactness.py), a wrong transport 1e-3."""


def verify(
    small: TrainingState,
    large: TrainingState,
    batches: Sequence[ModelInputs] | None = None,
    *,
    data: str | None = None,
    steps: int = 10,
    learning_rate: float = 1e-3,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Compare a state with the one grown from it. `large` must say in its lineage how it was grown.

    Losses and gradients are taken on the first batch, in `dtype`, without dropout; then both models train `steps` steps
    on the batches in turn. With 0 steps the losses alone are compared, of one model after the other, a layer at a time. That
    takes the memory of what is outside of the larger's layers, its largest layer, and activations. Without batches, they are
    made of `data`, a path to text or to images in an .npz.
    Without both, they are text of Python's own library, or random tokens where the state has no tokenizer.
    A model without a head is read by a fixed random one (see `probe`).
    Raises CheckpointError where `large` was not grown from `small`.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from outgrow.state.growing import grow
    >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    >>> small = TrainingState.from_model(LlamaForCausalLM(config))
    >>> verify(small, grow(small, to={"num_hidden_layers": 2}, depth="identity"), steps=1).passed
    True
    """
    check_state(small, "verify")
    check_state(large, "verify")
    words = ""
    if batches is None:
        batches, words = proof_batches(small, data, count=max(1, steps))
    elif data is not None or not batches:
        raise ConfigError(
            "verify takes batches, at least one, or data that they are made of", fix="give one of the two"
        )
    if not large.lineage:
        fix = "grow it with outgrow, or compare losses yourself"
        if small.lineage:
            fix = "give the small state first, then the one that was grown from it"
        raise CheckpointError("the large state has no lineage", fix=fix)
    before, gradients_as, made = _described(small, large)
    entry = large.lineage.last
    _check_source(before, entry)
    plan = replay(before.config, entry, large.assets)
    _check_sizes(plan, large)
    tolerance, gradient_tolerance = _tolerances(plan, large, dtype)
    law_plan = (
        plan
        if plan.moments == "transport"
        else replay(before.config, entry, large.assets, moments="transport")
    )
    if not steps:
        return _function_alone(plan, (small, before, large), batches[0], (dtype, device), tolerance, progress)
    progress("loss and gradients of the small model")
    small_model = _loaded(small, dtype, device)
    probe_small(small_model, resolve(small.config))
    loss_small, gradients = loss_and_gradients(small_model, batches[0])
    small_gradients = gradients_as(gradients)
    del gradients
    progress(f"{counted(steps, 'step')} of the small model")
    losses_small = _train(small_model, small, batches, steps, learning_rate)
    del small_model  # its memory is given back before the large one takes its own
    progress("loss and gradients of the large model")
    large_model = _loaded(large, dtype, device)
    probe_large(large_model, plan)
    wrong = unlike(plan, before, large)
    loss_large, large_gradients = loss_and_gradients(large_model, batches[0])
    strayed = strays(large_model, plan, moved(batches[0], large_model))
    laws = gradient_law(law_plan, small_gradients, large_gradients, made=made)
    updates = first_updates(plan, large, large_gradients)
    experts_start = experts_measured(plan, large_model, batches[0])
    escape_start = outside(law_plan, dict(large_model.named_parameters()))
    del small_gradients, large_gradients
    progress(f"{counted(steps, 'step')} of the large model")
    losses_large = _train(large_model, large, batches, steps, learning_rate)
    escape_end = outside(law_plan, dict(large_model.named_parameters()))
    experts_end = experts_measured(plan, large_model, batches[0])
    return Report(
        model_type=str(small.config["model_type"]),
        dtype=str(dtype).removeprefix("torch."),
        loss_small=loss_small,
        loss_large=loss_large,
        function_error=max(abs(loss_large - loss_small) / abs(loss_small), strayed),
        promised=plan.keeps_function,
        gradient=laws,
        gradient_error=laws[0].error if laws else 0.0,
        gradient_promised=plan.keeps_gradient_law,
        escape_start=escape_start,
        escape=escape_end,
        steps=steps,
        losses_small=losses_small,
        losses_large=losses_large,
        moment_norms={
            slot: (_norm(small, slot), _norm(large, slot)) for slot in MOMENTS if small.source.names(slot)
        },
        first_update=updates,
        tolerance=tolerance,
        gradient_tolerance=gradient_tolerance,
        unlike=wrong,
        findings=tuple(vars(finding) for finding in plan.compensation.findings),
        experts={name: (value, experts_end[name]) for name, value in experts_start.items()},
        stored=_stored(large),
        data=words,
        moments=plan.moments if has_moments(large.source) else "",
    )


def _stored(state: TrainingState) -> str:
    dtypes = {str(state.source.meta(name, "weight").dtype) for name in state.source.names("weight")}
    return ", ".join(sorted(dtype.removeprefix("torch.") for dtype in dtypes))


def _described(small: TrainingState, large: TrainingState) -> tuple[TrainingState, Carry, frozenset[str]]:
    """The small state as the model type that the last growth began with, its gradients under that type's names, and the
    tensors that were made for it."""
    told = described_since(small.config, large.lineage)
    if told is None:
        return small, lambda gradients: gradients, frozenset()
    found = conversion(small.config, told.after)

    def carry(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        here = {name: gradient.cpu() for name, gradient in gradients.items()}
        view = ConvertedView(found, MemorySource({"weight": here, "exp_avg": here}))
        return {name: view.read(name, "exp_avg") for name in found.tensors}

    made = frozenset(name for name, one in found.tensors.items() if not one.sources)
    return converted(small, found, moments=told.moments, seed=told.seed), carry, made


def loss_and_gradients(model: torch.nn.Module, batch: ModelInputs) -> tuple[float, dict[str, Tensor]]:
    """Mean loss of a batch and its gradient with respect to every parameter (zeros where there is none); the model keeps none."""
    loss = _backward(model, batch)
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }
    model.zero_grad(set_to_none=True)
    return loss, gradients


def _backward(model: torch.nn.Module, batch: ModelInputs) -> float:
    """Mean loss of a batch; its gradients are left in the parameters, in the place of others."""
    model.zero_grad(set_to_none=True)
    loss = batch_loss(model, moved(batch, model))
    torch.autograd.backward(loss)
    return float(loss.detach())


def _loaded(state: TrainingState, dtype: torch.dtype, device: str | torch.device) -> PreTrainedModel:
    model = build_model(state.config, dtype=dtype)
    state.load_into(model)
    model.to(device)
    return judged(model)


def _function_alone(
    plan: GrowthPlan,
    states: tuple[TrainingState, TrainingState, TrainingState],
    batch: ModelInputs,
    where: tuple[torch.dtype, str | torch.device],
    tolerance: float,
    progress: Callable[[str], None],
) -> Report:
    """The two losses, each of a model that holds a layer at a time; and whether the state is the plan's."""
    small, before, large = states
    progress("loss of the small model")
    loss_small, _ = _measured(small, None, batch, where)
    progress("loss of the large model")
    loss_large, strayed = _measured(large, plan, batch, where)
    return Report(
        model_type=str(small.config["model_type"]),
        dtype=str(where[0]).removeprefix("torch."),
        loss_small=loss_small,
        loss_large=loss_large,
        function_error=max(abs(loss_large - loss_small) / abs(loss_small), strayed),
        promised=plan.keeps_function,
        gradient=(),
        gradient_error=0.0,
        gradient_promised=False,
        escape_start=None,
        escape=None,
        steps=0,
        losses_small=(),
        losses_large=(),
        moment_norms={},
        first_update={},
        tolerance=tolerance,
        gradient_tolerance=None,
        unlike=unlike(plan, before, large),
        findings=tuple(vars(finding) for finding in plan.compensation.findings),
    )


@torch.no_grad()
def _measured(
    state: TrainingState,
    plan: GrowthPlan | None,
    batch: ModelInputs,
    where: tuple[torch.dtype, str | torch.device],
) -> tuple[float, float]:
    """The loss of a state, and how far its outputs stray; `plan` is that of its growth, None for the small state."""
    model, (dtype, device) = streamed(state, *where), where
    if plan is None:
        probe_small(model, resolve(state.config))
    else:
        probe_large(model, plan)
    moved = {
        key: value.to(device, dtype if value.is_floating_point() else None) for key, value in batch.items()
    }
    return float(batch_loss(model, moved)), 0.0 if plan is None else strays(model, plan, moved)


def _check_source(small: TrainingState, entry: LineageEntry) -> None:
    """Raises CheckpointError where the lineage was written for another source."""
    model, said = resolve(small.config), entry.sizes[0]
    here = {**model.sizes, "layers": model.layers, "parameters": model.num_parameters}
    wrong = [name for name in here if name in said and said[name] != here[name]]
    if wrong:
        raise CheckpointError(
            "the large state was not grown from this small one: it has other sizes",
            got=", ".join(f"{name} {here[name]}" for name in wrong),
            expected=", ".join(f"{name} {said[name]}" for name in wrong),
            fix="give the small state first, then the one that was grown from it",
        )


def _check_sizes(plan: GrowthPlan, large: TrainingState) -> None:
    """Raises CheckpointError where the state has other sizes than its lineage says."""
    for name in growable(plan.small.spec):
        size, found = got(plan.config, name), got(large.config, name)
        if isinstance(size, int) and found != size:
            raise CheckpointError(
                f"the large state was not grown from this small one: {name} differs",
                got=found,
                expected=size,
            )


def _tolerances(plan: GrowthPlan, large: TrainingState, dtype: torch.dtype) -> tuple[float, float | None]:
    """Of the loss and of the gradient law, by rounding: of the dtype, of the saved weights, and of RMSNorm, which
    transformers computes in float32 in any dtype."""
    dtypes = {dtype, *(large.source.meta(name, "weight").dtype for name in large.source.names("weight"))}
    if dtypes & {torch.bfloat16, torch.float16}:
        return 2e-3, None
    float32_norms = any(spec.norm == "rms" for spec in plan.small.axes.values())
    tolerance = 1e-5 if torch.float32 in dtypes or float32_norms else 1e-9
    if plan.small.spec.layers.norm == "post":
        # A silent layer normalizes twice what is normalized already: exact but for its eps.
        eps = max(float(plan.config[spec.eps]) for spec in plan.small.axes.values() if spec.eps is not None)
        tolerance += 2 * eps * (plan.large.layers - plan.small.layers)
    return tolerance, _GRADIENT_TOLERANCE


def _train(
    model: PreTrainedModel,
    state: TrainingState,
    batches: Sequence[ModelInputs],
    steps: int,
    learning_rate: float,
) -> tuple[float, ...]:
    """A few AdamW steps, from the state's own moments if they are Adam's; returns the loss before each step."""
    optimizer = torch.optim.AdamW(list(model.named_parameters()), lr=learning_rate, weight_decay=0.0)
    if is_adams(state):
        state.load_into(model, optimizer)
    losses = []
    for step in range(steps):
        losses.append(_backward(model, batches[step % len(batches)]))
        optimizer.step()
    return tuple(losses)


def _norm(state: TrainingState, slot: str) -> float:
    names = state.source.names(slot)
    total = sum(float(state.source.read(name, slot).double().square().sum()) for name in names)
    return float(total**0.5)
