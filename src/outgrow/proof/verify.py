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

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from outgrow.proof.function import judged, streamed_loss
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

_HALF = {torch.bfloat16, torch.float16}
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
    before, carry, made = _described(small, large)
    _check_source(before, large.lineage.last)
    plan = replay(before.config, large.lineage.last, large.assets)
    _check_sizes(plan, large)
    case = _Case(small, before, large, plan, batches, words, steps, learning_rate, dtype, device, progress)
    return _with_steps(case, carry, made) if steps else _function_alone(case)


@dataclass(frozen=True, eq=False)
class _Case:
    """A growth that is to be proved, on what, and where that is computed."""

    small: TrainingState
    before: TrainingState
    """The small state as the model type that the growth began with."""
    large: TrainingState
    plan: GrowthPlan
    batches: Sequence[ModelInputs]
    data: str
    """The batches in words."""
    steps: int
    learning_rate: float
    dtype: torch.dtype
    device: str | torch.device
    progress: Callable[[str], None]

    @property
    def dtypes(self) -> set[torch.dtype]:
        """In which the proof computes, and the weights of the large state are."""
        source = self.large.source
        return {self.dtype, *(source.meta(name, "weight").dtype for name in source.names("weight"))}

    def report(self, losses: tuple[float, float], strayed: float, **more: Any) -> Report:
        """What every proof says; `more` is what was measured beside the two losses."""
        small, large = losses
        return Report(
            model_type=str(self.small.config["model_type"]),
            dtype=str(self.dtype).removeprefix("torch."),
            loss_small=small,
            loss_large=large,
            function_error=max(abs(large - small) / abs(small), strayed),
            promised=self.plan.keeps_function,
            tolerance=_tolerance(self.plan, self.dtypes),
            unlike=unlike(self.plan, self.before, self.large),
            findings=tuple(vars(finding) for finding in self.plan.compensation.findings),
            **more,
        )


def _function_alone(case: _Case) -> Report:
    """The two losses, each of a model that holds a layer at a time; and whether the state is the plan's."""
    case.progress("loss of the small model")
    small, _ = streamed_loss(case.small, None, case.batches[0], case.dtype, case.device)
    case.progress("loss of the large model")
    large, strayed = streamed_loss(case.large, case.plan, case.batches[0], case.dtype, case.device)
    return case.report((small, large), strayed)


def _with_steps(case: _Case, carry: Carry, made: frozenset[str]) -> Report:
    """Losses and gradients of both models, and what some steps of training do to them; one model is in memory after the other."""
    large, plan, law_plan, batch = case.large, case.plan, case.plan, case.batches[0]
    if plan.moments != "transport":
        law_plan = replay(case.before.config, large.lineage.last, large.assets, moments="transport")
    loss_small, small_gradients, losses_small = _small_side(case, carry)
    case.progress("loss and gradients of the large model")
    model = _loaded(case, large)
    probe_large(model, plan)
    loss_large, gradients = loss_and_gradients(model, batch)
    strayed = strays(model, plan, moved(batch, model))
    laws = gradient_law(law_plan, small_gradients, gradients, made=made)
    updates = first_updates(plan, large, gradients)
    del small_gradients, gradients  # their memory is given back before the optimizer takes its own
    experts = experts_measured(plan, model, batch)
    escape = outside(law_plan, dict(model.named_parameters()))
    case.progress(f"{counted(case.steps, 'step')} of the large model")
    losses_large = _train(case, model, large)
    experts_end = experts_measured(plan, model, batch)
    return case.report(
        (loss_small, loss_large),
        strayed,
        gradient=laws,
        gradient_error=laws[0].error if laws else 0.0,
        gradient_promised=plan.keeps_gradient_law,
        gradient_tolerance=None if case.dtypes & _HALF else _GRADIENT_TOLERANCE,
        escape_start=escape,
        escape=outside(law_plan, dict(model.named_parameters())),
        steps=case.steps,
        losses_small=losses_small,
        losses_large=losses_large,
        moment_norms={
            slot: (_norm(case.small, slot), _norm(large, slot))
            for slot in MOMENTS
            if case.small.source.names(slot)
        },
        first_update=updates,
        experts={name: (value, experts_end[name]) for name, value in experts.items()},
        stored=_stored(large),
        data=case.data,
        moments=plan.moments if has_moments(large.source) else "",
    )


def _small_side(case: _Case, carry: Carry) -> tuple[float, dict[str, Tensor], tuple[float, ...]]:
    """The small model's loss, its gradients under the names that the growth began with, and its losses as it trains."""
    case.progress("loss and gradients of the small model")
    model = _loaded(case, case.small)
    probe_small(model, resolve(case.small.config))
    loss, gradients = loss_and_gradients(model, case.batches[0])
    gradients = carry(gradients)
    case.progress(f"{counted(case.steps, 'step')} of the small model")
    return loss, gradients, _train(case, model, case.small)


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


def _loaded(case: _Case, state: TrainingState) -> PreTrainedModel:
    model = build_model(state.config, dtype=case.dtype)
    state.load_into(model)
    model.to(case.device)
    return judged(model)


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


def _tolerance(plan: GrowthPlan, dtypes: Set[torch.dtype]) -> float:
    """Of the loss, by rounding: of these dtypes, and of RMSNorm, which transformers computes in float32 in any dtype."""
    if dtypes & _HALF:
        return 2e-3
    float32_norms = any(spec.norm == "rms" for spec in plan.small.axes.values())
    tolerance = 1e-5 if torch.float32 in dtypes or float32_norms else 1e-9
    if plan.small.spec.layers.norm == "post":
        # A silent layer normalizes twice what is normalized already: exact but for its eps.
        fields = {spec.eps for spec in plan.small.axes.values() if spec.eps is not None}
        eps = max(
            (float(got(plan.config, field)) for field in fields), default=1e-12
        )  # in the code, as DistilBERT's
        tolerance += 2 * eps * (plan.large.layers - plan.small.layers)
    return tolerance


def _train(case: _Case, model: PreTrainedModel, state: TrainingState) -> tuple[float, ...]:
    """AdamW steps from the state's own moments, if they are Adam's; the loss before each step."""
    optimizer = torch.optim.AdamW(list(model.named_parameters()), lr=case.learning_rate, weight_decay=0.0)
    if is_adams(state):
        state.load_into(model, optimizer)
    losses = []
    for step in range(case.steps):
        losses.append(_backward(model, case.batches[step % len(case.batches)]))
        optimizer.step()
    return tuple(losses)


def _norm(state: TrainingState, slot: str) -> float:
    names = state.source.names(slot)
    total = sum(float(state.source.read(name, slot).double().square().sum()) for name in names)
    return float(total**0.5)
