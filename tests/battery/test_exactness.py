"""Every width operator × every architecture × several shapes: the function and the gradient law, on real models.

Losses are computed in float64 from the logits. Llama's RMSNorm goes through float32, which sets a floor near 1e-7; each
such case is therefore checked twice, as transformers runs it and with norms in float64, where 1e-9 holds.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from battery import growing, zoo
from outgrow.algebra.axes import Dim
from outgrow.algebra.maps import AxisMap, identity
from outgrow.algebra.products import direct_sum, kron
from outgrow.errors import GrowthError, OutgrowError
from outgrow.growth.plan import GrowthPlan
from outgrow.methods.build import DEPTH
from outgrow.proof.verify import verify
from outgrow.state.asked import plan_growth
from outgrow.state.growing import grow
from outgrow.state.training_state import TrainingState

CASES = [pytest.param(*case, id="-".join(case)) for case in growing.cases(growing.EXACT)]
CHANGED = [pytest.param(*case, id="-".join(case)) for case in growing.cases(growing.INEXACT)]
ONE_SHAPE = list({(name, width): case for case in CASES for name, width, _ in [case.values]}.values())
"""Every model with every operator, to one of its shapes."""
ROUNDED = [
    case for case in ONE_SHAPE if case.values[1] in growing.BASE or case.values[0] in growing.SAMPLE[:3]
]
"""Every model with the operators of all models, and a model of every kind of norm with the others: experts are rounded as an MLP is."""
FLOAT32_NORMS = 84 * torch.finfo(torch.float32).eps
"""Losses and gradients of models that compute norms in float32: at most 21 norms (5 layers with 4 each, and the last), forward
and backward, whose backward pass subtracts two terms of one size, each with a rounding of eps: 21 · 2 · 2."""
FLOAT64 = 1e-9
"""Over a million times float64's eps: no order of sums comes near it, and no error of ours stays below."""
BFLOAT16 = torch.finfo(torch.bfloat16).eps / 4
"""Losses in bfloat16, whose unit roundoff u is eps / 2: half of u. A token's logits are off by a few u; 4,096 tokens average what
is independent to a tenth of u. What they share, weights that are rounded anew after a scale, is left."""
LAW_FLOOR = 1e-4
"""Gradients smaller than this share of the largest are measured against it. Zero in exact arithmetic: BERT's key biases,
GPT-2's key part of `c_attn.bias`. Nearly zero: rotary key biases, whose float32 rounding is that of the whole sum."""


@cache
def small(name: str, float64_norms: bool) -> tuple[nn.Module, float, dict[str, Tensor]]:
    model = zoo.build(zoo.config(name))
    if float64_norms:
        zoo.norms_in_float64(model)
    return model, *zoo.loss_and_gradients(model, zoo.batch())


def measure(name: str, plan: GrowthPlan, *, float64_norms: bool) -> tuple[float, dict[str, float]]:
    """(relative loss gap, gradient-law error per tensor)."""
    model, before, gradients = small(name, float64_norms)
    large = growing.grown(plan, model)
    if float64_norms:
        zoo.norms_in_float64(large)
    after, large_gradients = zoo.loss_and_gradients(large, zoo.batch())
    floor = 1e-6 if float64_norms or zoo.family(name) != "llama" else LAW_FLOOR
    return abs(after - before) / before, growing.law_errors(plan, gradients, large_gradients, floor=floor)


@pytest.mark.parametrize(("name", "width", "which"), CASES)
def test_function_and_gradient_law(name: str, width: str, which: str) -> None:
    plan = growing.planned(name, growing.shape(name, which), width=width)
    assert plan.keeps_function
    for float64_norms in (False, True) if zoo.family(name) == "llama" else (True,):
        tolerance = FLOAT64 if float64_norms else FLOAT32_NORMS
        gap, law = measure(name, plan, float64_norms=float64_norms)
        assert gap <= tolerance
        if plan.keeps_gradient_law:
            worst = max(law, key=law.__getitem__)
            assert law[worst] <= tolerance, worst
        else:
            assert max(law.values()) > 1e-3, "the law holds although the plan says that it does not"
    assert all(
        finding.why for finding in plan.compensation.findings if not (finding.function and finding.gradient)
    )


def test_every_family_has_a_shape_divisible_in_no_axis() -> None:
    """Where the operator allows it at all; BERT's stream has to stay divisible."""
    for family, which in growing.DIVISIBLE_IN_NO_AXIS.items():
        name = family
        for width in ("isometric", "pad") if family == "llama" else ("pad",):
            assert which in growing.EXACT[width, family]
            plan = growing.planned(name, growing.shape(name, which), width=width)
            grows = [name for name, size in plan.large.sizes.items() if size != plan.small.sizes[name]]
            assert {"embed", "mlp"} < set(grows)
            assert all(plan.large.sizes[name] % plan.small.sizes[name] for name in grows)
            assert plan.large.layers % plan.small.layers


@pytest.mark.parametrize(("name", "width", "which"), ROUNDED)
def test_function_in_bfloat16(name: str, width: str, which: str) -> None:
    plan = growing.planned(name, growing.shape(name, which), width=width)
    # Rounding moves a loss by the logits' size: these are small, as a trained model's, and 256 sequences (or images) average.
    model, tokens, before = small_in_bfloat16(name)
    large = zoo.every_expert(growing.grown(plan, model, dtype=torch.bfloat16))
    with torch.no_grad():
        after = zoo.loss(large, tokens).item()
    assert abs(after - before) / before <= BFLOAT16


@cache
def small_in_bfloat16(name: str) -> tuple[nn.Module, Tensor, float]:
    """A small model, a batch, and its loss."""
    model = zoo.every_expert(zoo.build(zoo.config(name), dtype=torch.bfloat16, embedding=0.3))
    tokens = zoo.batch(rows=256, columns=16)
    with torch.no_grad():
        return model, tokens, zoo.loss(model, tokens).item()


@pytest.mark.parametrize(("name", "width", "which"), CHANGED)
def test_what_changes_the_function_says_so(name: str, width: str, which: str) -> None:
    plan = growing.planned(name, growing.shape(name, which), width=width)
    assert not plan.keeps_function
    assert not plan.keeps_gradient_law
    assert any(finding.why for finding in plan.compensation.findings if not finding.function)
    gap, law = measure(name, plan, float64_norms=True)
    assert gap > 1e-4
    assert max(law.values()) > 1e-2


@pytest.mark.parametrize(
    ("rope", "kept"),
    [
        ({"rope_type": "default"}, True),
        ({"rope_type": "linear", "factor": 4.0}, True),
        (
            {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            | {"original_max_position_embeddings": 16},
            True,
        ),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, False),
        ({"rope_type": "dynamic", "factor": 4.0}, False),
    ],
)
def test_rotary_positions_that_depend_on_the_heads_size(rope: dict[str, Any], kept: bool) -> None:
    """Scaled by frequency alone they are kept; ramps and bases in units of the head's size are not (2309.00071)."""
    rope = {"rope_theta": 10000.0, **rope}
    full = {**zoo.config("llama"), "architectures": ["LlamaForCausalLM"]}
    full |= {"max_position_embeddings": 8, "rope_parameters": rope}
    model = zoo.build(full)
    plan = plan_growth(full, to={"head_dim": 2 * full["head_dim"]}, width="isometric", noise=0.0)
    assert plan.keeps_function == kept
    large = growing.grown(plan, model)
    with torch.no_grad():
        tokens = zoo.batch(rows=2, columns=32)
        before, after = model(input_ids=tokens).logits, large(input_ids=tokens).logits
    if kept:
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    elif rope["rope_type"] == "dynamic":  # beyond max_position_embeddings
        assert float((after - before).abs().max()) > 1e-4


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize(
    ("name", "width"), [pair for pair in growing.pairs() if zoo.family(pair[0]) != "vit"]
)
def test_vocabulary_growth_keeps_old_logits(name: str, width: str, noise: float) -> None:
    plan = growing.planned(name, {"vocab_size": 41}, width=width, noise=noise)
    assert not plan.keeps_function  # the softmax has more terms
    model = small(name, False)[0]
    large = growing.grown(plan, model)
    with torch.no_grad():
        before, after = model(input_ids=zoo.batch()).logits, large(input_ids=zoo.batch()).logits
    assert after.shape[-1] == 41
    torch.testing.assert_close(after[..., :37], before, rtol=0, atol=1e-12)
    torch.testing.assert_close(after[..., 37:].mean(-1), before.mean(-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", [4, 6, 11])
@pytest.mark.parametrize("name", zoo.CONFIGS)
def test_identity_depth_alone(name: str, layers: int) -> None:
    plan = growing.planned(name, {"num_hidden_layers": layers})
    assert plan.keeps_function
    assert plan.keeps_gradient_law
    # A gradient passes unchanged through silent layers, so that every old tensor keeps its own.
    gap, law = measure(name, plan, float64_norms=True)
    # Post-norm: every inserted LayerNorm adds its eps (1e-12) once more, to a variance near 1.
    assert gap <= FLOAT64
    assert max(law.values()) <= FLOAT64
    assert len(law) == len(plan.small.parameters)


@pytest.mark.parametrize("width", ["isometric", "duplicate"])
@pytest.mark.parametrize("name", zoo.CONFIGS)
def test_noise_is_invisible_to_readers_but_not_to_gradients(name: str, width: str) -> None:
    to = growing.shape(name, "double")
    quiet, noisy = (growing.planned(name, to, width=width, noise=noise) for noise in (0.0, 0.5))
    assert noisy.keeps_function
    assert not noisy.keeps_gradient_law
    assert quiet.is_caged
    assert not noisy.is_caged
    gap, law = measure(name, noisy, float64_norms=True)
    assert gap <= FLOAT64
    assert max(law.values()) > 1e-3
    model = small(name, False)[0]
    plain, changed = (growing.view(plan, weight=growing.weights(model)) for plan in (quiet, noisy))
    moved = 0.0
    for tensor in noisy.large.parameters:
        difference = changed.read(tensor, "weight") - plain.read(tensor, "weight")
        moved = max(moved, float(difference.abs().max()))
        assert seen_by_readers(noisy, tensor, difference) <= 1e-14, tensor
    assert moved > 1e-3


def seen_by_readers(plan: GrowthPlan, name: str, noise: Tensor) -> float:
    """max |N F_i|, over one read dimension after the other: what noise adds to an output, for activations F x."""
    seen = noise
    for place, dim in enumerate(plan.large.parameters[name].signature.dims):
        if dim.role == "reads" and not dim.axes & {"vocab", "positions", "types"}:
            seen = torch.tensordot(activations(plan, dim), seen, dims=([0], [place])).movedim(0, place)
    return float(seen.abs().max())


def activations(plan: GrowthPlan, dim: Dim) -> Tensor:
    """F of a dimension, (large, small)."""

    def axis(atom: str | int) -> AxisMap:
        return identity(atom) if isinstance(atom, int) else plan.compensation.axes[atom]

    return direct_sum([kron([axis(atom).forward for atom in block]) for block in dim.blocks]).matrix()


@pytest.mark.parametrize(
    ("name", "width", "depth"),
    [
        *((name, width, "identity") for name, width in growing.pairs()),
        *((name, "isometric", depth) for name in ("gpt2", "bert", "llama-tied-bias") for depth in DEPTH),
    ],
)
def test_names_and_shapes_are_a_real_models(name: str, width: str, depth: str) -> None:
    which = growing.usual(width, zoo.family(name))
    plan = growing.planned(name, growing.deeper(name, which, 6), width=width, depth=depth)
    with torch.device("meta"):
        real = zoo.empty(dict(plan.config))
    expected = {tensor: tuple(parameter.shape) for tensor, parameter in real.named_parameters()}
    for slot in ("weight", "exp_avg", "exp_avg_sq"):
        assert {tensor: recipe.shape for tensor, recipe in plan.recipes[slot].items()} == expected
    exact = (width, zoo.family(name)) in growing.EXACT
    silent = DEPTH[depth].function.startswith("kept") or depth == "staged"
    assert plan.keeps_function == (exact and silent)
    assert set(plan.steps) == set(expected)


@pytest.mark.parametrize("depth", ["stack", "interleave"])
@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_repeated_layers_change_the_function_and_say_so(name: str, depth: str) -> None:
    plan = growing.planned(name, growing.shape(name, "double"), depth=depth)
    gap, _ = measure(name, plan, float64_norms=True)
    assert not plan.keeps_function
    assert gap > 1e-3
    finding = next(one for one in plan.compensation.findings if one.axis == "layers")
    assert finding.why


@pytest.mark.parametrize(
    ("name", "width", "to", "says"),
    [
        ("gpt2", "isometric", growing.shape("gpt2", "odd"), "use pad"),
        ("bert", "isometric", {"hidden_size": 28}, "choose 48"),
        ("bert", "pad", growing.shape("bert", "double"), "post-norm"),
        ("gpt2", "duplicate", {"n_inner": 43}, "not a multiple"),
        ("llama", "duplicate", {"hidden_size": 44}, "use isometric or pad"),
        ("llama", "isometric", {"head_dim": 12}, "rotary pairs"),
        ("llama", "pad", {"num_key_value_heads": 4}, "fewer query heads"),
        ("llama", "isometric", {"num_key_value_heads": 3}, "not a whole number"),
        ("llama", "isometric", {"hidden_size": 42}, "choose sizes where hidden_size is a multiple"),
        ("llama", "isometric", {"hidden_size": 20}, "would shrink"),
        ("llama", "isometric", {"num_hidden_layers": 2}, "fewer layers"),
        ("llama", "isometric", {"hidden_sise": 48}, "did you mean hidden_size"),
        ("gpt2", "pad", {"n_embd": 32, "hidden_size": 36}, "are the same size"),
        ("gpt2", "isometric", {"n_ctx": 32}, "not a size"),
        ("llama", "isometrik", {"hidden_size": 48}, "did you mean isometric"),
        ("llama", "isometric", {"hidden_size": 48.0}, "whole number"),
        ("llama", "isometric", {"num_hidden_layers": 999_999_999}, "more than 1,000 times"),
        ("llama", "isometric", {"hidden_size": 999_999_999}, "more than 1,000 times"),
    ],
)
def test_what_cannot_be_kept_is_refused(name: str, width: str, to: dict[str, int], says: str) -> None:
    with pytest.raises(OutgrowError, match=says):
        growing.planned(name, to, width=width)


def test_unknown_operators_and_moments() -> None:
    with pytest.raises(GrowthError, match="did you mean stack"):
        growing.planned("llama", {"num_hidden_layers": 6}, depth="stak")
    with pytest.raises(GrowthError, match="did you mean keep_zero"):
        growing.planned("llama", {"num_hidden_layers": 6}, moments="keep_zeros")  # type: ignore[arg-type]
    with pytest.raises(GrowthError, match="standard deviation"):
        growing.planned("llama", {"hidden_size": 48}, noise=-1.0)


@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_silent_post_norm_layers_are_exact_up_to_their_eps(eps: float) -> None:
    """They normalize what is normalized already; the proof's tolerance knows."""
    full = {**zoo.config("bert"), "architectures": ["BertForMaskedLM"], "layer_norm_eps": eps}
    small = TrainingState.from_model(zoo.build(full))
    tokens = zoo.batch()
    large = grow(small, to={"num_hidden_layers": 4}, depth="identity")
    report = verify(small, large, [{"input_ids": tokens, "labels": tokens}], steps=1)
    assert report.promised
    assert report.function_kept
    assert (report.function_error > 1e-9) == (eps > 1e-9)
