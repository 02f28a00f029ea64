"""Properties that hold for whatever sizes, operators and architectures hypothesis draws."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

from battery import growing, zoo
from outgrow.algebra.slots import SLOTS
from outgrow.errors import OutgrowError
from outgrow.growth.growth import Growth
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.methods.build import DEPTH, WIDTH, build
from outgrow.models.architecture import resolve
from outgrow.models.model import Model

EXAMPLES = settings().max_examples  # 25, or 500 under HYPOTHESIS_PROFILE=search
MODEL_TYPES = ("gpt2", "bert", "roberta", "eurobert", "llama", "mistral", "qwen2", "qwen3", "mixtral")


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A small model of any architecture."""
    model_type = draw(st.sampled_from(MODEL_TYPES))
    heads, head_dim = draw(st.integers(1, 4)), 2 * draw(st.integers(1, 3))
    tied = draw(st.booleans())
    common = {**zoo.TOKENS, "vocab_size": 37, "tie_word_embeddings": tied}
    layers, mlp = draw(st.integers(1, 3)), draw(st.integers(3, 12))
    if model_type == "gpt2":
        own = {
            "n_embd": heads * head_dim,
            "n_head": heads,
            "n_layer": layers,
            "n_inner": mlp,
            "n_positions": 12,
        }
    else:
        own = {
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "intermediate_size": mlp,
            "hidden_size": heads * head_dim,
        }
        if model_type in ("bert", "roberta"):
            own |= {"max_position_embeddings": 12, "type_vocab_size": 2}
        else:
            kv_heads = draw(
                st.sampled_from([divisor for divisor in range(1, heads + 1) if heads % divisor == 0])
            )
            own |= {"num_key_value_heads": kv_heads}
            if model_type != "qwen2":
                wide = (
                    draw(st.integers(3, 12))
                    if model_type not in ("llama", "eurobert")
                    else heads * draw(st.integers(1, 4))
                )
                own |= {"hidden_size": wide, "head_dim": head_dim}
    if model_type in ("llama", "qwen3"):
        own["attention_bias"] = draw(st.booleans())
    return transformers.AutoConfig.for_model(model_type, **common, **own).to_dict()


@st.composite
def targets(draw: st.DrawFn, small: Model) -> dict[str, int]:
    """Sizes at or above the small model's: often whole multiples, often not."""
    sizes, to = small.sizes, {}
    grow = st.integers(1, 3)
    extra = st.integers(0, 5)
    if draw(st.booleans()):
        to["intermediate_size"] = draw(
            st.one_of(grow.map(lambda k: k * sizes["mlp"]), extra.map(lambda k: sizes["mlp"] + k))
        )
    if draw(st.booleans()):
        to["num_hidden_layers"] = small.layers + draw(st.integers(0, 4))
    if draw(st.booleans()):
        to["vocab_size"] = 37 + draw(extra)
    if "group" in sizes:
        head_dim = sizes["query_dim"] * draw(st.sampled_from([1, 1, 2]))
        kv_heads = (
            sizes["kv_heads"] * draw(grow)
            if draw(st.booleans())
            else sizes["kv_heads"] + draw(st.integers(0, 2))
        )
        heads = kv_heads * (sizes["group"] + draw(st.integers(0, 2)))
        to |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}
        to["hidden_size"] = draw(
            st.one_of(grow.map(lambda k: k * sizes["embed"]), extra.map(lambda k: sizes["embed"] + k))
        )
        if small.spec.whole:
            to["hidden_size"] = -(-to["hidden_size"] // heads) * heads
    else:
        heads, head_dim = (
            sizes["heads"] + draw(st.integers(0, 2)),
            sizes["query_dim"] + draw(st.integers(0, 2)),
        )
        if draw(st.booleans()):
            heads, head_dim = sizes["heads"] * draw(grow), sizes["query_dim"]
        to |= {"num_attention_heads": heads, "hidden_size": heads * head_dim}
    return to


@st.composite
def growths(draw: st.DrawFn, *, exact: bool = False) -> Growth:
    """A growth that its operator accepts; `exact`: by operators that promise to keep the function."""
    small = resolve(draw(configs()))
    to = draw(targets(small))
    widths, depths = (
        sorted(
            name
            for name, one in registry.items()
            if not exact or one.function.startswith(("kept", "mode=identity: kept"))
        )
        for registry in (WIDTH, DEPTH)
    )
    width, depth = draw(st.sampled_from(widths)), draw(st.sampled_from(depths))
    noise = draw(st.sampled_from([0.0, 0.0, 0.3]))
    note(f"{dict(small.config)}")
    note(f"to {to} by {width} and {depth}, noise {noise}")
    try:
        return build(small, to, width=width, depth=depth, noise=noise)
    except OutgrowError:  # refused with a reason: nothing to prove
        assume(False)
        raise


@given(growths())
@settings(max_examples=2 * EXAMPLES)
def test_every_axis_is_a_proper_pair(growth: Growth) -> None:
    made = plan(growth)
    for name, axis in made.compensation.axes.items():
        assert axis.residual() <= 1e-12 or not made.keeps_function, name
        assert (axis.forward.inputs, axis.forward.outputs) == (axis.backward.inputs, axis.backward.outputs)
        if " " not in name and " ".join((name, "group")) not in made.compensation.axes and name != "group":
            assert (axis.small, axis.large) == (made.small.sizes[name], made.large.sizes[name])
    assert all(finding.why for finding in made.compensation.findings if not finding.function)


@given(growths())
@settings(max_examples=EXAMPLES)
def test_every_recipe_has_the_shape_of_a_real_tensor(growth: Growth) -> None:
    made = plan(growth)
    with torch.device("meta"):
        real = zoo.empty(dict(made.config))
    shapes = {name: tuple(parameter.shape) for name, parameter in real.named_parameters()}
    for slot, recipes in made.recipes.items():
        law, least = SLOTS[slot], 1 if SLOTS[slot].mean_over is None else 2
        expected = {name: law.shape(shape) for name, shape in shapes.items() if len(shape) >= least}
        assert {name: recipe.shape for name, recipe in recipes.items()} == expected
        for recipe in recipes.values():
            for term in recipe.terms:
                assert tuple(map_.outputs for map_ in term.maps) == recipe.shape
                if isinstance(term.source, str):
                    inputs = tuple(map_.inputs for map_ in term.maps)
                    assert inputs == law.shape(made.small.shape(term.source))
    made.describe()


@given(growths(exact=True), st.integers(0, 3))
@settings(max_examples=EXAMPLES)
def test_what_is_promised_holds_on_a_real_model(growth: Growth, seed: int) -> None:
    made = plan(growth)
    assume(made.keeps_function)
    small = zoo.norms_in_float64(zoo.build(dict(growth.small.config), seed))
    large = zoo.norms_in_float64(growing.grown(made, small))
    before, gradients = zoo.loss_and_gradients(small, zoo.batch(seed))
    after, large_gradients = zoo.loss_and_gradients(large, zoo.batch(seed))
    assert abs(after - before) <= 1e-9 * before
    if made.keeps_gradient_law:
        law = growing.law_errors(made, gradients, large_gradients, floor=1e-6)
        worst = max(law, key=law.__getitem__)
        assert law[worst] <= 1e-8, worst


@given(growths())
@settings(max_examples=EXAMPLES // 2)
def test_moments_never_blow_up(growth: Growth) -> None:
    """Second moments stay positive where the source's are, and no way to grow moments gives a value from nowhere."""
    for moments in ("transport", "keep_zero", "copy", "reset"):
        made: GrowthPlan = plan(growth, moments)
        ones = {
            name: torch.ones(growth.small.shape(name), dtype=torch.float64)
            for name in growth.small.parameters
        }
        view = growing.view(made, exp_avg_sq=ones)
        for name in view.names("exp_avg_sq"):
            value = view.read(name, "exp_avg_sq")
            assert bool((value >= 0).all())
            if made.steps[name] is not None:
                assert bool((value[_open(made, name)] > 0).all()), name


@given(growths())
@settings(max_examples=EXAMPLES // 2)
def test_factors_grow_as_the_whole(growth: Growth) -> None:
    """Adafactor's r cᵀ / mean r, grown as two factors, is the grown second moment wherever an old entry reaches."""
    made = plan(growth)
    generator = torch.Generator().manual_seed(3)
    full, rows, columns = {}, {}, {}
    for name in growth.small.parameters:
        shape = growth.small.shape(name)
        if len(shape) == 2:
            r, c = (torch.rand(size, generator=generator, dtype=torch.float64) + 0.1 for size in shape)
            full[name] = torch.outer(r, c)
            rows[name], columns[name] = full[name].mean(1), full[name].mean(0)
    view = growing.view(made, exp_avg_sq=full, exp_avg_sq_row=rows, exp_avg_sq_col=columns)
    for name in view.names("exp_avg_sq_row"):
        r, c = view.read(name, "exp_avg_sq_row"), view.read(name, "exp_avg_sq_col")
        if made.steps[name] is not None:
            reached = growing.covered(made, name, "exp_avg_sq")
            whole = view.read(name, "exp_avg_sq")
            torch.testing.assert_close(
                (torch.outer(r, c) / r.mean())[reached], whole[reached], rtol=1e-10, atol=0
            )
            torch.testing.assert_close(r.mean(), c.mean())


def _open(made: GrowthPlan, name: str) -> torch.Tensor:
    """Entries that v reaches or fills."""
    recipe = made.recipes["exp_avg_sq"][name]
    mask = growing.covered(made, name, "exp_avg_sq")
    return torch.ones_like(mask) if recipe.fills else mask
