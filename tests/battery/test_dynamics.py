"""What growth does to training: the commuting square, the ways to grow moments, and the size of the first update.

    k AdamW steps, then grow   ==   grow, then k AdamW steps        (docs/explanation/maths.md)

for uniform duplication, when moments are transported, steps kept, learning rates multiplied by `multipliers`,
lr·weight_decay held, and eps scaled as the gradient is.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from battery import growing, zoo
from outgrow.algebra.slots import Moments
from outgrow.errors import GrowthError
from outgrow.growth.multipliers import multipliers
from outgrow.growth.plan import GrowthPlan

LR, BETAS = 1e-2, (0.9, 0.999)
EPS = 1e-6  # above the rounding (1e-16) of gradients that are zero in exact arithmetic, as BERT's key biases
STEPS = 4
MODELS = ["gpt2", "deit", "bert", "llama", "llama-tied-bias", "mixtral"]


def optimizer(
    model: nn.Module,
    *,
    decay: float = 0.0,
    rates: Mapping[str, float] | None = None,
    epsilons: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """AdamW with a group per tensor: lr × rate, weight_decay / rate, eps × scale."""
    rate, epsilon = rates or {}, epsilons or {}
    groups = [
        {
            "params": [parameter],
            "lr": LR * rate.get(name, 1.0),
            "weight_decay": decay / rate.get(name, 1.0),
            "eps": EPS * epsilon.get(name, 1.0),
        }
        for name, parameter in model.named_parameters()
    ]
    return torch.optim.AdamW(groups, lr=LR, betas=BETAS)


def train(model: nn.Module, adamw: torch.optim.AdamW, first: int, count: int = STEPS) -> None:
    for step in range(first, first + count):
        adamw.zero_grad()
        zoo.loss(model, zoo.batch(seed=step)).backward()
        adamw.step()


def state(model: nn.Module, adamw: torch.optim.AdamW) -> dict[str, dict[str, Tensor]]:
    """{slot: {name: tensor}} of a live model."""
    slots: dict[str, dict[str, Tensor]] = {"weight": {}, "exp_avg": {}, "exp_avg_sq": {}}
    for name, parameter in model.named_parameters():
        slots["weight"][name] = parameter.detach().clone()
        for slot in ("exp_avg", "exp_avg_sq"):
            slots[slot][name] = adamw.state[parameter][slot].clone()
    return slots


def put(plan: GrowthPlan, old: dict[str, dict[str, Tensor]], step: float, adamw_options: dict) -> tuple:
    """A large model and its AdamW, holding the grown state."""
    large = zoo.build(dict(plan.config), seed=9)
    source = growing.view(plan, **old)
    growing.load(large, source)
    adamw = optimizer(large, **adamw_options)
    for name, parameter in large.named_parameters():
        adamw.state[parameter] = {
            "step": torch.tensor(step if plan.steps[name] is not None else 0.0),
            "exp_avg": source.read(name, "exp_avg").clone(),
            "exp_avg_sq": source.read(name, "exp_avg_sq").clone(),
        }
    return large, adamw


def gradient_scale(plan: GrowthPlan) -> dict[str, float]:
    """By how much each tensor's gradient shrinks: the one weight of its transport's copies."""
    scales = {}
    for name, recipe in plan.recipes["exp_avg"].items():
        matrix = torch.ones((), dtype=torch.float64)
        for map_ in recipe.terms[0].maps:
            weights = map_.matrix()
            weights = weights[weights != 0]
            assert bool((weights == weights[0]).all())
            matrix = matrix * weights[0]
        scales[name] = float(matrix)
    return scales


def square(
    name: str,
    to: Mapping[str, int],
    *,
    moments: Moments = "transport",
    decay: float = 0.0,
    with_rates: bool = True,
    decay_in_rates: bool = True,
    float64_norms: bool = True,
) -> float:
    """max |grow(train(w)) - train(grow(w))| over all weights, relative to the distance that training moved them."""
    plan = growing.planned(name, to, width="duplicate", moments=moments)
    small = zoo.build(zoo.config(name))
    if float64_norms:
        zoo.norms_in_float64(small)
    adamw = optimizer(small, decay=decay)
    train(small, adamw, 0)
    before = state(small, adamw)

    options = {"decay": decay, "epsilons": gradient_scale(growing.planned(name, to, width="duplicate"))}
    if with_rates:
        options["rates"] = multipliers(plan)
    large, large_adamw = put(plan, before, STEPS, options)
    if not decay_in_rates:
        for group in large_adamw.param_groups:
            group["weight_decay"] = decay
    if float64_norms:
        zoo.norms_in_float64(large)
    start = growing.weights(large)
    start = {tensor: value.clone() for tensor, value in start.items()}
    train(large, large_adamw, STEPS)
    train(small, adamw, STEPS)
    after = growing.view(plan, **state(small, adamw))
    moved = max(
        float((value - start[tensor]).abs().max()) for tensor, value in growing.weights(large).items()
    )
    apart = max(
        float((value - after.read(tensor, "weight")).abs().max())
        for tensor, value in growing.weights(large).items()
    )
    return apart / moved


def doubled(name: str) -> dict[str, int]:
    """Twice the width, at the same depth: a silent layer learns, and so leaves its square."""
    sizes = growing.shape(name, "double")
    return {field: size for field, size in sizes.items() if "layer" not in field}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("which", ["double", "triple"])
@pytest.mark.parametrize("name", MODELS)
def test_training_and_growing_commute(name: str, which: str, decay: float) -> None:
    to = doubled(name) if which == "double" or zoo.family(name) == "llama" else growing.shape(name, "triple")
    if which == "triple" and zoo.family(name) == "llama":
        to = {
            "hidden_size": 72,
            "intermediate_size": 120,
            "num_key_value_heads": 6,
            "num_attention_heads": 12,
        }
    assert square(name, to, decay=decay) <= 1e-9


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
def test_training_and_growing_commute_with_norms_in_float32(name: str) -> None:
    # RMSNorm in float32 rounds a gradient by eps of the largest; Adam divides by √v, so one that is 1e4 times smaller moves
    # its weight by a step that is off by 1e4 eps.
    assert square(name, doubled(name), float64_norms=False) <= 1e4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("name", MODELS)
def test_the_square_needs_each_of_its_conditions(name: str) -> None:
    to = doubled(name)
    assert square(name, to, with_rates=False) > 1e-2
    assert square(name, to, moments="reset") > 1e-2
    assert square(name, to, moments="copy") > 1e-3
    assert square(name, to, decay=5.0, decay_in_rates=False) > 1e-3


def test_multipliers_are_one_over_fan_in() -> None:
    found = multipliers(growing.planned("llama", doubled("llama"), width="duplicate"))
    assert found["model.embed_tokens.weight"] == 1
    assert found["model.norm.weight"] == 1
    assert found["model.layers.0.mlp.up_proj.weight"] == 0.5
    assert found["lm_head.weight"] == 0.5
    with pytest.raises(GrowthError, match="unequal"):
        multipliers(growing.planned("llama", {"intermediate_size": 47}))


# ---- the ways to grow moments ---------------------------------------------------------------------------------------


def random_state(name: str, seed: int = 3) -> dict[str, dict[str, Tensor]]:
    model = zoo.build(zoo.config(name))
    generator = torch.Generator().manual_seed(seed)

    def random(parameter: Tensor) -> Tensor:
        return torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    weights = growing.weights(model)
    return {
        "weight": weights,
        "exp_avg": {tensor: random(value) for tensor, value in weights.items()},
        "exp_avg_sq": {tensor: random(value).square() for tensor, value in weights.items()},
    }


def first_copies(plan: GrowthPlan, name: str, slot: str) -> Tensor:
    """bool: the entries that are, in every dimension, the first new unit of an old one."""
    mask = torch.ones(plan.recipes[slot][name].shape, dtype=torch.bool)
    reference = growing.planned_moments(plan, "transport").recipes[slot][name]
    for dim, map_ in enumerate(reference.terms[0].maps):
        first, seen = [], set()
        for row in (map_.matrix() != 0).tolist():
            unit = row.index(True) if any(row) else None
            first.append(unit is not None and unit not in seen)
            seen.add(unit)
        view = [1] * mask.dim()
        view[dim] = -1
        mask &= torch.tensor(first).view(view)
    return mask


WIDTHS = [
    ("gpt2", "pad", "odd"),
    ("gpt2", "duplicate", "double"),
    ("bert", "isometric", "heads"),
    ("llama", "isometric", "odd"),
    ("llama", "pad", "group odd"),
    ("llama", "isometric", "head_dim"),
    ("qwen3", "duplicate", "group"),
]


@pytest.mark.parametrize(("name", "width", "which"), WIDTHS)
def test_keep_zero_keeps_every_old_entry_once(name: str, width: str, which: str) -> None:
    plan = growing.planned(name, growing.shape(name, which), width=width, moments="keep_zero")
    old = random_state(name)
    view = growing.view(plan, **old)
    continued = [source for source in plan.steps.values() if source is not None]
    assert sorted(continued) == sorted(plan.small.parameters), "every old tensor goes on in one new tensor"
    for tensor, source in plan.steps.items():
        m, v = view.read(tensor, "exp_avg"), view.read(tensor, "exp_avg_sq")
        if source is None:
            assert not m.any()
            assert not v.any()
            continue
        kept = first_copies(plan, tensor, "exp_avg")
        torch.testing.assert_close(m[kept].sort().values, old["exp_avg"][source].flatten().sort().values)
        torch.testing.assert_close(v[kept].sort().values, old["exp_avg_sq"][source].flatten().sort().values)
        assert not m[~kept].any(), tensor
        level = torch.full_like(v[~kept], float(old["exp_avg_sq"][source].mean()))
        torch.testing.assert_close(v[~kept], level, msg=tensor)


@pytest.mark.parametrize(("name", "width", "which"), WIDTHS)
def test_copy_copies_values_and_reset_drops_them(name: str, width: str, which: str) -> None:
    to, old = growing.shape(name, which), random_state(name)
    transport = growing.planned(name, to, width=width)
    copied = growing.planned(name, to, width=width, moments="copy")
    reset = growing.planned(name, to, width=width, moments="reset")
    view = growing.view(copied, **old)
    nothing = growing.view(reset, **old)
    for tensor in copied.large.parameters:
        assert reset.steps[tensor] is None
        assert not nothing.read(tensor, "exp_avg").any()
        assert not nothing.read(tensor, "exp_avg_sq").any()
        source = copied.steps[tensor]
        assert source == transport.steps[tensor]
        if source is not None:
            values = set(old["exp_avg"][source].flatten().tolist()) | {0.0}
            assert set(view.read(tensor, "exp_avg").flatten().tolist()) <= values, tensor
            covered = growing.covered(transport, tensor)
            assert bool((view.read(tensor, "exp_avg")[covered] != 0).all())


@pytest.mark.parametrize("moments", ["keep_zero", "copy", "reset"])
def test_moments_change_no_weight(moments: Moments) -> None:
    to = growing.shape("llama", "odd")
    one, other = (growing.planned("llama", to, moments=how) for how in ("transport", moments))
    weights = growing.weights(zoo.build(zoo.config("llama")))
    left, right = growing.view(one, weight=weights), growing.view(other, weight=weights)
    for tensor in one.large.parameters:
        assert torch.equal(left.read(tensor, "weight"), right.read(tensor, "weight"))


# ---- the first update -----------------------------------------------------------------------------------------------


def late_state(name: str, batches: int = 16) -> dict[str, dict[str, Tensor]]:
    """Weights and the moments of a model late in training: m one gradient, v the mean square of many."""
    model = zoo.build(zoo.config(name))
    gradients = [zoo.loss_and_gradients(model, zoo.batch(seed))[1] for seed in range(batches)]
    return {
        "weight": growing.weights(model),
        "exp_avg": gradients[0],
        "exp_avg_sq": {
            tensor: torch.stack([gradient[tensor] for gradient in gradients]).square().mean(0)
            for tensor in gradients[0]
        },
    }


@pytest.mark.parametrize("level", [True, False])
@pytest.mark.parametrize(
    ("name", "width", "which", "moments"),
    [
        ("llama", "pad", "odd", "transport"),
        ("llama", "pad", "odd", "keep_zero"),
        ("gpt2", "pad", "odd", "transport"),
        ("llama", "isometric", "odd", "keep_zero"),
        ("bert", "duplicate", "double", "keep_zero"),
    ],
)
def test_first_update_of_new_entries(
    name: str, width: str, which: str, moments: Moments, level: bool
) -> None:
    """With v at the tensor's mean, a new entry moves by about a learning rate; with v = 0 all move by 3.2 (`Level`)."""
    step = 20_000.0
    plan = growing.planned(name, growing.shape(name, which), width=width, moments=moments)
    large, adamw = put(plan, late_state(name), step, {"epsilons": dict.fromkeys(plan.large.parameters, 1e-6)})
    before = {tensor: value.clone() for tensor, value in growing.weights(large).items()}
    new = {}
    for tensor, parameter in large.named_parameters():
        if plan.steps[tensor] is not None:
            new[tensor] = adamw.state[parameter]["exp_avg"] == 0
            if not level:
                adamw.state[parameter]["exp_avg_sq"][new[tensor]] = 0.0
    train(large, adamw, 0, 1)
    gradients = {tensor: parameter.grad for tensor, parameter in large.named_parameters()}
    updates = torch.cat(
        [
            ((value - before[tensor]) / LR)[new[tensor] & (gradients[tensor].abs() > 1e-7)].abs()
            for tensor, value in growing.weights(large).items()
            if tensor in new
        ]
    )
    assert len(updates) > 1000
    wild = (1 - BETAS[0]) / (1 - BETAS[1]) ** 0.5  # 3.16
    if level:
        assert updates.max() < 1.1
        assert updates.median() < 0.2
    else:
        assert updates.median() == pytest.approx(wild, rel=1e-2)


def test_a_fresh_tensor_begins_at_step_zero() -> None:
    """A silent layer has no moments: its steps begin at 0, and Adam's bias correction makes its first update 1 lr."""
    plan = growing.planned("gpt2", {"n_layer": 5})
    large, adamw = put(plan, late_state("gpt2"), 20_000.0, {})
    fresh = [tensor for tensor in plan.large.parameters if plan.steps[tensor] is None]
    assert {plan.large.parameters[tensor].layer for tensor in fresh} == set(plan.growth.layers.silent)
    before = {tensor: value.clone() for tensor, value in growing.weights(large).items()}
    train(large, adamw, 0, 1)
    after = growing.weights(large)
    assert max(float((after[tensor] - before[tensor]).abs().max()) for tensor in fresh) <= LR * (1 + 1e-6)
