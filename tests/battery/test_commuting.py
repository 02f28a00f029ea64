"""Every optimizer: its state grows by the law, and with its own multipliers training commutes with growth.

    k steps, then grow   ==   grow, then k steps        (weights, and every slot of the optimizer's state)

for uniform duplication, in float64. Muon's orthogonalisation is computed in bfloat16 by torch: with the same iteration in
float64 the square is exact, and with torch's own the difference is that of bfloat16's rounding (`muon_rounding`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from battery import growing, zoo
from outgrow.algebra.slots import MOMENTS, SLOTS, Moments
from outgrow.engine.optimizers import Lion, build_optimizer, hidden_matrices
from outgrow.errors import GrowthError
from outgrow.growth.multipliers import multiplier, multipliers, muon_rate
from outgrow.growth.plan import GrowthPlan
from outgrow.run.optimizer_config import (
    AdafactorConfig,
    AdamWConfig,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
    SGDConfig,
)
from outgrow.state.growing import apply
from outgrow.state.training_state import TrainingState

STEPS = 4
TRIPLED = {
    "gpt2": growing.shape("gpt2", "triple"),
    "llama": {
        "hidden_size": 72,
        "intermediate_size": 120,
        "num_key_value_heads": 6,
        "num_attention_heads": 12,
    },
}
NO_EPS = 1e-30  # eps is not scaled with the gradient here, so it must be nothing
CONFIGS: dict[str, OptimizerConfig] = {
    "AdamW": AdamWConfig(learning_rate=1e-2, eps=NO_EPS),
    "SGD": SGDConfig(name="sgd", learning_rate=0.02, weight_decay=0.1),
    "SGD, nesterov": SGDConfig(name="sgd", learning_rate=0.02, nesterov=True),
    "SGD, no momentum": SGDConfig(name="sgd", learning_rate=0.02, momentum=0.0),
    "Lion": LionConfig(name="lion", learning_rate=1e-3),
    "Adafactor": AdafactorConfig(name="adafactor", learning_rate=1e-2, weight_decay=0.1),
    "Muon": MuonConfig(name="muon", learning_rate=1e-2, eps=NO_EPS),
}
MODELS = ["llama", "gpt2"]


def orthogonalised(gradient: Tensor, coefficients: tuple[float, ...], steps: int, eps: float) -> Tensor:
    """The iteration of torch.optim.Muon, X ← a X + (b A + c A²) X with A = X Xᵀ, in the gradient's own precision."""
    a, b, c = coefficients
    wide = gradient if gradient.shape[0] <= gradient.shape[1] else gradient.T
    x = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if gradient.shape[0] <= gradient.shape[1] else x.T


NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
"""The coefficients a, b, c of Muon's iteration."""
ITERATIONS = 5
BFLOAT16_UNIT = torch.finfo(torch.bfloat16).eps / 2
"""u: half the distance of 1 and the next number, so the most that rounding moves a number, relatively."""


def muon_rounding(ways: int) -> float:
    """How far bfloat16 moves Muon's directions, relatively: the root mean square over `ways` independent computations.

    An iteration rounds A = X Xᵀ, A², bA + cA² and the new X. At singular values near 1 these errors reach the new X with
    weights |b| + 2c, c, |b + c| and 1. Each is u/√6 in the root mean square: uniform in ±u times a power of 2, over a
    mantissa uniform in [1, 2). Errors of different entries, iterations and computations are independent, so squares add.
    The order of the sums, which differs between processors, changes which way an entry is rounded, and not how far.
    """
    _, b, c = NEWTON_SCHULZ
    weights = (abs(b) + 2 * c, c, abs(b + c), 1.0)
    squares = ways * ITERATIONS * sum(weight**2 for weight in weights)
    return float(BFLOAT16_UNIT * (squares / 6) ** 0.5)


@pytest.fixture
def exact_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's Muon with its own iteration in float64."""
    monkeypatch.setattr(torch.optim._muon, "_zeropower_via_newtonschulz", orthogonalised)


def test_the_replica_is_torchs_iteration() -> None:
    """Same formula, other precision: they agree to bfloat16's rounding over five iterations."""
    gradient = torch.randn(12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = torch.optim._muon._zeropower_via_newtonschulz(gradient, NEWTON_SCHULZ, ITERATIONS, 1e-7)
    ours = orthogonalised(gradient, NEWTON_SCHULZ, ITERATIONS, 1e-7)
    assert 0 < float((theirs.double() - ours).norm() / ours.norm()) < muon_rounding(ways=1)
    fewer = orthogonalised(gradient, NEWTON_SCHULZ, ITERATIONS - 1, 1e-7)
    assert float((fewer - ours).norm() / ours.norm()) > muon_rounding(ways=1), "the bound would not notice"


def rates(plan: GrowthPlan, which: str) -> dict[str, float]:
    """Each tensor's multiplier under its own rule; Muon's is net of what torch's Muon does with shapes."""
    if which != "Muon":
        return multipliers(plan, which.split(",")[0])  # type: ignore[arg-type]
    hidden = hidden_matrices(plan.config)
    found = {}
    for name in plan.large.parameters:
        found[name] = multiplier(plan, name, "Muon" if name in hidden else "AdamW")
        if name in hidden:
            small, large = plan.small.shape(name), plan.large.shape(name)
            found[name] *= muon_rate(small, "match_rms_adamw") / muon_rate(large, "match_rms_adamw")
    return found


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int) -> None:
    for step in range(first, first + STEPS):
        optimizer.zero_grad()
        zoo.loss(model, zoo.batch(seed=step)).backward()
        _no_key_bias(model)
        optimizer.step()


def _no_key_bias(model: nn.Module) -> None:
    """Softmax does not feel GPT-2's key biases: their gradient is 0, and 1e-17 in floating point, of which a sign makes a step."""
    for name, parameter in model.named_parameters():
        if name.endswith("c_attn.bias"):
            parameter.grad.chunk(3)[1].zero_()


def square(
    plan: GrowthPlan, config: OptimizerConfig, scale: Mapping[str, float]
) -> tuple[float, dict[str, float]]:
    """Largest difference of the two ways: of weights, relative to what training moved, and of each slot, relative."""
    small = zoo.norms_in_float64(zoo.build(dict(plan.small.config)))
    optimizer = build_optimizer(small, config)
    train(small, optimizer, 0)
    large = zoo.norms_in_float64(zoo.build(dict(plan.config), seed=9))
    large_optimizer = build_optimizer(large, config, scale)
    apply(plan, TrainingState.from_model(small, optimizer)).load_into(large, large_optimizer)
    start = {name: value.clone() for name, value in growing.weights(large).items()}
    train(large, large_optimizer, STEPS)
    train(small, optimizer, STEPS)
    one = apply(plan, TrainingState.from_model(small, optimizer))
    other = TrainingState.from_model(large, large_optimizer)
    assert other.steps == one.steps
    apart, moved, slots = 0.0, 0.0, {}
    for slot in SLOTS:
        assert set(one.source.names(slot)) == set(other.source.names(slot)), slot
        for name in one.source.names(slot):
            a, b = (state.source.read(name, slot) for state in (one, other))
            if slot == "weight":
                apart = max(apart, float((a - b).abs().max()))
                moved = max(moved, float((b - start[name]).abs().max()))
            else:
                slots[slot] = max(slots.get(slot, 0.0), float((a - b).norm() / a.norm()))
    return apart / moved, slots


def doubled(name: str) -> dict[str, int]:
    return {field: size for field, size in growing.shape(name, "double").items() if "layer" not in field}


@pytest.mark.parametrize(
    ("name", "width", "to", "exact"),
    [
        ("llama", "isometric", {"hidden_size": 36}, True),
        ("llama", "duplicate", TRIPLED["llama"], True),
        ("gpt2", "duplicate", TRIPLED["gpt2"], True),
        (
            "llama",
            "isometric",
            {"intermediate_size": 53},
            False,
        ),  # MLP units copied once or twice: columns of two norms
    ],
)
def test_orthogonalising_commutes_with_growing(
    name: str, width: str, to: dict[str, int], exact: bool
) -> None:
    """NS(G_o m F_iᵀ) = Q_o NS(m) Q_iᵀ, up to a factor, where the columns of G_o and F_i have one norm each."""
    plan = growing.planned(name, to, width=width)
    weights = growing.weights(zoo.build(zoo.config(name)))
    options = (NEWTON_SCHULZ, ITERATIONS, 1e-7)
    turned = {one: orthogonalised(m, *options) if m.dim() == 2 else m for one, m in weights.items()}
    grown = growing.view(plan, weight=weights, exp_avg=weights)
    expected = growing.view(plan, weight=weights, exp_avg=turned)
    worst = 0.0
    for one in hidden_matrices(plan.config):
        a, b = orthogonalised(grown.read(one, "exp_avg"), *options), expected.read(one, "exp_avg")
        worst = max(worst, float((a / a.norm() - b / b.norm()).norm()))
    assert (worst <= 1e-12) if exact else (worst > 1e-2)


@pytest.mark.usefixtures("exact_muon")
@pytest.mark.parametrize(
    ("name", "which"), [*((name, which) for name in MODELS for which in CONFIGS), ("mixtral", "Adafactor")]
)
def test_training_and_growing_commute(name: str, which: str) -> None:
    plan = growing.planned(name, doubled(name), width="duplicate")
    scale = rates(plan, which)
    weights, slots = square(plan, CONFIGS[which], scale)
    assert weights <= 1e-9
    assert all(error <= 1e-9 for error in slots.values()), slots
    assert bool(slots) == (which != "SGD, no momentum")
    if "Adafactor" not in which:
        assert square(plan, CONFIGS[which], {})[0] > 1e-2, "the square needs its multipliers"
    else:
        assert set(scale.values()) == {1.0}
        assert square(plan, CONFIGS[which], multipliers(plan, "AdamW"))[0] > 1e-2


@pytest.mark.parametrize("name", MODELS)
def test_torchs_own_muon_commutes_to_bfloat16(name: str) -> None:
    """A larger matrix is summed in another order, and so rounded otherwise: two computations, each with its rounding.

    Every step moves a weight by a learning rate times such a direction, so what four steps move is off by the same share.
    """
    for to in (doubled(name), TRIPLED[name]):
        plan = growing.planned(name, to, width="duplicate")
        assert square(plan, CONFIGS["Muon"], rates(plan, "Muon"))[0] < muon_rounding(ways=2)
        assert square(plan, CONFIGS["Muon"], {})[0] > 2 * muon_rounding(ways=2), "the bound would not notice"


def test_isometric_streams_need_no_multiplier_at_any_width() -> None:
    """24 → 36 channels, some copied once and some twice: G = F, so SGD and Muon move matrices as they should already."""
    plan = growing.planned("llama", {"hidden_size": 36})
    matrices = multipliers(plan, "Muon")
    assert all(value == pytest.approx(1.0) for value in matrices.values())
    assert all(multiplier(plan, name, "SGD") == pytest.approx(1.0) for name in matrices)
    with pytest.raises(GrowthError, match=r"norm\.weight' has copies of unequal weight"):
        multipliers(plan, "SGD")
    with pytest.raises(GrowthError, match="unequal"):
        multipliers(plan, "AdamW")


def test_multipliers_are_the_known_table() -> None:
    """Duplication of mlp ×4 and embed ×2: AdamW 1/in, SGD out/in, Muon √(out/in), Adafactor 1."""
    to = {"hidden_size": 48, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 160}
    plan = growing.planned("llama", to, width="duplicate")
    up, down = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
    expected = {
        "AdamW": (1 / 2, 1 / 4),
        "SGD": (4 / 2, 2 / 4),
        "Muon": (2**0.5, 0.5**0.5),
        "Adafactor": (1, 1),
    }
    for optimizer, (of_up, of_down) in expected.items():
        found = multipliers(plan, optimizer)  # type: ignore[arg-type]
        assert (found[up], found[down]) == pytest.approx((of_up, of_down))
    assert multipliers(plan, "Lion") == multipliers(plan, "AdamW")
    assert "model.norm.weight" not in multipliers(plan, "Muon")
    reset = growing.planned("llama", to, width="duplicate", moments="reset")
    assert multipliers(reset, "SGD") == multipliers(plan, "SGD")
    with pytest.raises(GrowthError, match="did you mean AdamW"):
        multipliers(plan, "adamw")  # type: ignore[arg-type]


# ---- factored second moments ----------------------------------------------------------------------------------------

FACTORS = [("row_var", "col_var"), ("exp_avg_sq_row", "exp_avg_sq_col")]


def factored(full: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Row and column means of every matrix in both classes' shapes; vectors whole."""
    slots: dict[str, dict[str, Tensor]] = {slot: {} for pair in FACTORS for slot in pair}
    for name, v in full.items():
        if v.dim() == 2:
            slots["row_var"][name], slots["col_var"][name] = v.mean(1, keepdim=True), v.mean(0, keepdim=True)
            slots["exp_avg_sq_row"][name], slots["exp_avg_sq_col"][name] = v.mean(1), v.mean(0)
    slots["variance"] = {name: v for name, v in full.items() if v.dim() == 1}
    return slots


def estimate(row: Tensor, column: Tensor) -> Tensor:
    """Adafactor's estimate of the second moment (arXiv 1804.04235, algorithm 4)."""
    row, column = row.flatten(), column.flatten()
    return torch.outer(row, column) / row.mean()


def second_moments(name: str, *, rank_one: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    found = {}
    for tensor, weight in growing.weights(zoo.build(zoo.config(name))).items():
        v = torch.rand(weight.shape, generator=generator, dtype=torch.float64) + 0.1
        found[tensor] = estimate(v.mean(1), v.mean(0)) if rank_one and v.dim() == 2 else v
    return found


GROWTHS = [
    ("llama", "isometric", "odd"),
    ("llama", "pad", "odd"),
    ("llama", "duplicate", "group"),
    ("gpt2", "pad", "heads"),
    ("gpt2", "isometric", "mlp odd"),
    ("bert", "isometric", "heads"),
]


@pytest.mark.parametrize("moments", ["transport", "keep_zero", "copy"])
@pytest.mark.parametrize(("name", "width", "which"), GROWTHS)
def test_grown_factors_are_those_of_the_grown_second_moment(
    name: str, width: str, which: str, moments: Moments
) -> None:
    """Where the source is what its factors say (rank one), so is the grown one, entry by entry; means included."""
    full = second_moments(name, rank_one=True)
    plan = growing.planned(name, growing.shape(name, which), width=width, moments=moments)
    view = growing.view(plan, weight=growing.weights(zoo.build(zoo.config(name))), exp_avg_sq=full)
    parts = growing.view(plan, weight=growing.weights(zoo.build(zoo.config(name))), **factored(full))
    seen = 0
    for tensor in view.names("exp_avg_sq"):
        expected = view.read(tensor, "exp_avg_sq")
        if expected.dim() == 1:
            torch.testing.assert_close(parts.read(tensor, "variance"), expected)
            continue
        law = growing.covered(plan, tensor, "exp_avg_sq") if plan.steps[tensor] is not None else None
        for row, column in FACTORS:
            r, c = parts.read(tensor, row), parts.read(tensor, column)
            assert r.shape == SLOTS[row].shape(tuple(expected.shape))
            if law is None:
                assert not r.any()
                assert not c.any()
                continue
            guess = estimate(r, c)
            torch.testing.assert_close(guess[law], expected[law], rtol=1e-10, atol=0, msg=tensor)
            torch.testing.assert_close(r.flatten(), guess.mean(1), rtol=1e-10, atol=0)
            torch.testing.assert_close(c.flatten(), guess.mean(0), rtol=1e-10, atol=0)
            assert bool((guess > 0).all()), "new entries have a level too"
            seen += 1
    assert seen > 20


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_even_copies_keep_the_factors_of_any_second_moment(name: str) -> None:
    full = second_moments(name, rank_one=False)
    plan = growing.planned(name, doubled(name), width="duplicate")
    weights = growing.weights(zoo.build(zoo.config(name)))
    whole, parts = growing.view(plan, weight=weights, exp_avg_sq=full), factored(full)
    view = growing.view(plan, weight=weights, **parts)
    for tensor in view.names("row_var"):
        expected = whole.read(tensor, "exp_avg_sq")
        torch.testing.assert_close(view.read(tensor, "row_var"), expected.mean(1, keepdim=True))
        torch.testing.assert_close(view.read(tensor, "col_var"), expected.mean(0, keepdim=True))


def test_factors_of_zero_stay_zero() -> None:
    plan = growing.planned("llama", growing.shape("llama", "odd"))
    weights = growing.weights(zoo.build(zoo.config("llama")))
    view = growing.view(
        plan, weight=weights, **factored({name: torch.zeros_like(w) for name, w in weights.items()})
    )
    for slot in ("row_var", "col_var", "variance"):
        assert view.names(slot)
        assert not any(view.read(name, slot).any() for name in view.names(slot))


@pytest.mark.parametrize("moments", ["transport", "keep_zero", "copy", "reset"])
def test_slots_of_one_law_grow_alike_and_only_where_they_are(moments: Moments) -> None:
    """A momentum buffer grows as exp_avg does; a state may have one slot here and another there (Muon beside AdamW)."""
    weights = growing.weights(zoo.build(zoo.config("llama")))
    hidden = hidden_matrices(zoo.config("llama"))
    plan = growing.planned("llama", growing.shape("llama", "odd"), depth="stack", moments=moments)
    view = growing.view(
        plan,
        weight=weights,
        momentum_buffer={name: value for name, value in weights.items() if name in hidden},
        exp_avg={name: value for name, value in weights.items() if name not in hidden},
    )
    whole = growing.view(plan, weight=weights, exp_avg=weights)
    if moments == "reset":
        assert all(not view.names(slot) for slot in MOMENTS)
        return
    assert set(view.names("momentum_buffer")) == hidden_matrices(plan.config)
    assert set(view.names("exp_avg")) == set(plan.large.parameters) - hidden_matrices(plan.config)
    for slot in ("momentum_buffer", "exp_avg"):
        for name in view.names(slot):
            assert torch.equal(view.read(name, slot), whole.read(name, "exp_avg"))


# ---- Lion -----------------------------------------------------------------------------------------------------------


def test_lion_is_the_papers_algorithm() -> None:
    """arXiv 2302.06675, algorithm 2, entry by entry in plain Python."""
    draw: Callable[[], Tensor] = lambda: torch.randn(5, generator=generator, dtype=torch.float64)  # noqa: E731
    generator = torch.Generator().manual_seed(2)
    weight = draw().requires_grad_()
    optimizer = Lion([weight], lr=0.1, betas=(0.9, 0.99), weight_decay=0.3)
    values, momentum = weight.tolist(), [0.0] * 5
    for _ in range(6):
        weight.grad = draw()
        for place, gradient in enumerate(weight.grad.tolist()):
            mixed = 0.9 * momentum[place] + (1 - 0.9) * gradient
            sign = (mixed > 0) - (mixed < 0)
            values[place] -= 0.1 * (sign + 0.3 * values[place])
            momentum[place] = 0.99 * momentum[place] + (1 - 0.99) * gradient
        optimizer.step()
    torch.testing.assert_close(
        weight.detach(), torch.tensor(values, dtype=torch.float64), rtol=1e-14, atol=1e-14
    )
    torch.testing.assert_close(
        optimizer.state[weight]["exp_avg"],
        torch.tensor(momentum, dtype=torch.float64),
        rtol=1e-14,
        atol=1e-14,
    )
