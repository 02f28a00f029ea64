"""What is measured of a growth, from its plan and the tensors of both models; `verify` says when.

gradient law     every large gradient against the transport of the small one
outside          share of the large weights that is no lift of small ones: escape from the small model's subspace
experts          how far the copies of an expert have parted, and how a batch's tokens fall on them
first updates    AdamW's, of old and of new entries, in learning rates
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from outgrow.algebra.recipe import Term
from outgrow.growth.plan import GrowthPlan
from outgrow.models.forward import ModelInputs, batch_loss
from outgrow.models.routing import loads, watched
from outgrow.proof.verdict import FirstUpdate, TensorLaw
from outgrow.state.grown_view import GrownView
from outgrow.state.training_state import TrainingState
from outgrow.store.source import MemorySource


def moved(batch: ModelInputs, model: torch.nn.Module) -> ModelInputs:
    """A batch on a model's device, its numbers in the model's dtype."""
    like = next(model.parameters())
    return {key: value.to(like if value.is_floating_point() else like.device) for key, value in batch.items()}


def gradient_law(
    plan: GrowthPlan,
    small: Mapping[str, Tensor],
    large: Mapping[str, Tensor],
    *,
    made: Collection[str] = (),
) -> tuple[TensorLaw, ...]:
    """Error of every large gradient against its transport g' = G_o g F_iᵀ, worst first.

    Entries that the small model does not determine are left out, and what grew from tensors that a conversion `made`, as
    biases of zero: the small model has no gradient of them. A gradient that vanishes in exact arithmetic (a key
    bias, under softmax) is measured against the largest gradient, at 1e-6 of it, for its own norm is rounding.
    """
    moments = {name: gradient.cpu() for name, gradient in small.items()}
    buffers = {
        name: torch.zeros(plan.small.shape(name)) for name in plan.small.parameters if name not in small
    }
    view = GrownView(plan, MemorySource({"weight": {**small, **buffers}, "exp_avg": moments}))
    largest = max(float(gradient.norm()) for gradient in small.values())
    floor = 1e-6 * largest or 1.0  # where all weights are zero, nothing has a gradient
    found = []
    for name, gradient in large.items():
        covered = determined(plan, name)
        if covered is None or any(term.source in made for term in plan.recipes["exp_avg"][name].terms):
            continue
        if is_routed(
            plan, name
        ):  # copies of an expert share its gradient as their tokens fall: their sum is kept
            small_gradient = view.source.read(origin(plan, name), "exp_avg")
            wrong = summed(plan, name, gradient.cpu()) - small_gradient
            norm = float(small_gradient.norm())
        else:
            expected = view.read(name, "exp_avg")
            wrong, norm = (gradient.cpu() - expected) * covered, float(expected.norm())
        error = float(wrong.norm()) / (norm + floor)
        found.append(TensorLaw(name, error, norm))
    return tuple(sorted(found, key=lambda law: -law.error))


@torch.no_grad()
def experts_measured(plan: GrowthPlan, model: torch.nn.Module, batch: ModelInputs) -> dict[str, float]:
    """Spread of the copies of experts, and how the tokens of a batch fall on them; {} where no experts grew.

    spread = ‖W_e - mean over the copies of e's source‖ / ‖W_e‖ over all stacked matrices.
    """
    if not plan.growth.experts:
        return {}
    apart = total = 0.0
    for name, weight in model.named_parameters():
        grown = plan.growth.experts_of(plan.large.parameters[name])
        if grown is None or weight.dim() < 3:
            continue
        kind = (grown.source * grown.pieces + grown.piece).to(weight.device)
        value = weight.detach().double()
        means = torch.zeros(int(kind.max()) + 1, *value.shape[1:], dtype=value.dtype, device=value.device)
        means.index_add_(0, kind, value / grown.copies)
        apart += float((value - means[kind]).square().sum())
        total += float(value.square().sum())
    with watched(model) as seen:
        batch_loss(model, moved(batch, model))
    return {"spread": (apart / total) ** 0.5, **loads(seen.tokens())}


def is_routed(plan: GrowthPlan, name: str) -> bool:
    """Whether a tensor belongs to experts that grow, or to their router."""
    parameter = plan.large.parameters[name]
    return plan.growth.experts_of(parameter) is not None or plan.growth.router_of(parameter) is not None


def origin(plan: GrowthPlan, name: str) -> str:
    """The small tensor that a large one is made of."""
    return next(str(term.source) for term in plan.recipes["weight"][name].terms)


def summed(plan: GrowthPlan, name: str, gradient: Tensor) -> Tensor:
    """Lᵀ g' for W' = L W: a large gradient summed over what was made of each small entry. By the chain rule it is the
    small gradient wherever the function is kept, whatever the copies see."""
    total: Tensor | None = None
    for term in plan.recipes["weight"][name].terms:
        part = gradient
        for dim, map_ in enumerate(term.maps):
            part = map_.transposed(part, dim)
        part = part * term.coefficient
        total = part if total is None else total + part
    assert total is not None, name
    return total


def determined(plan: GrowthPlan, name: str) -> Tensor | None:
    """bool, broadcastable: entries of a large gradient that the small model determines; None if there are none."""
    recipe = plan.recipes["exp_avg"][name]
    if not recipe.terms:
        return None
    mask = torch.ones((), dtype=torch.bool)
    for dim, map_ in enumerate(recipe.terms[0].maps):
        view = [-1 if dim == other else 1 for other in range(len(recipe.shape))]
        mask = mask & map_.covered().view(view)
    return mask


def outside(plan: GrowthPlan, weights: Mapping[str, Tensor]) -> float | None:
    """Share of the large weights that is no lift of small ones: ‖W' - lift(project(W'))‖ / ‖W'‖ over all matrices.

    None where that is not defined: nothing grows in width (copies of a layer stand at other depths and part at once), or
    weights are sums of several tensors (learned operators, published parts). Layers that copy nothing do not count.
    """
    missed = total = 0.0
    if any(len(recipe.terms) > 1 for recipe in plan.recipes["weight"].values()):
        return None
    if not any(axis.grows for axis in plan.growth.axes.values()):
        return None
    for name, weight in weights.items():
        recipe = plan.recipes["weight"][name]
        dual = plan.recipes["exp_avg"][name]
        if weight.dim() < 2 or not recipe.terms or not dual.terms:
            continue
        value = weight.detach().double().cpu()
        small = value
        for dim, map_ in enumerate(dual.terms[0].maps):
            small = map_.transposed(small, dim)
        lifted = _lift(recipe.terms[0], small)
        missed += float((value - lifted).square().sum())
        total += float(value.square().sum())
    return (missed / total) ** 0.5 if total else 0.0


def first_updates(
    plan: GrowthPlan, state: TrainingState, gradients: Mapping[str, Tensor]
) -> dict[str, FirstUpdate]:
    """AdamW's first update |m̂ / (√v̂ + eps)| from the grown moments and steps, for old and for new entries.

    `new, from zero` is what the new entries would get from m = v = 0 at the kept step count.
    """
    if state.optimizer is None or not is_adams(state):
        return {}
    options = state.optimizer.groups[0].options
    beta1, beta2 = (float(beta) for beta in options.get("betas", (0.9, 0.999)))
    eps = float(options.get("eps", 1e-8))
    sizes: dict[str, list[Tensor]] = {"old": [], "new": [], "new, from zero": []}
    for name, gradient in gradients.items():
        step = state.steps[name] + 1
        g = gradient.double().cpu()

        def update(m: Tensor, v: Tensor, g: Tensor = g, step: float = step) -> Tensor:
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g.square()
            return torch.abs(m / (1 - beta1**step) / ((v / (1 - beta2**step)).sqrt() + eps))

        moved = update(
            state.source.read(name, "exp_avg").double(), state.source.read(name, "exp_avg_sq").double()
        )
        covered = determined(plan, name)
        old = torch.zeros_like(g, dtype=torch.bool) if covered is None else covered.expand_as(g)
        sizes["old"].append(moved[old])
        sizes["new"].append(moved[~old & (g != 0)])
        sizes["new, from zero"].append(update(torch.zeros_like(g), torch.zeros_like(g))[~old & (g != 0)])
    found = {}
    for kind, parts in sizes.items():
        values = torch.cat(parts)
        if len(values):
            found[kind] = FirstUpdate(float(values.median()), float(values.max()))
    return found


def _lift(term: Term, small: Tensor) -> Tensor:
    for dim, map_ in enumerate(term.maps):
        small = map_.apply(small, dim)
    return small


def is_adams(state: TrainingState) -> bool:
    """Whether the state has Adam's moments for every tensor."""
    info = state.optimizer
    return info is not None and info.name in ("Adam", "AdamW") and bool(state.steps)
