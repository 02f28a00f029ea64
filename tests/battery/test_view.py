"""`GrownView` gives the same bits however it is read, and one joined growth is two growths."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from battery import growing, zoo
from outgrow.algebra.slots import Moments
from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.methods.build import DEPTH, WIDTH, build
from outgrow.models.architecture import resolve
from outgrow.state.grown_view import GrownView

SLOTS = ("weight", "exp_avg", "exp_avg_sq")
MODELS = ["gpt2", "vit", "bert", "llama-tied-bias", "qwen3", "mixtral"]
PARTS = ("staged", "aki", "msg", "lemon", "sparkling:fan_in=random", "net2net:visible=0.5")
"""One operator for every kind of part, fill and rest."""
OPERATORS = [
    *((name, width) for name in MODELS for width in growing.BASE),
    *(("llama-tied-bias", width) for width in PARTS),
]
WIDE = {"gpt2": "double", "vit": "double", "bert": "mlp odd, deep", "llama": "odd"}


@cache
def state(name: str) -> dict[str, dict[str, Tensor]]:
    """Weights and moments of a zoo model, float64."""
    model = zoo.build(zoo.config(name))
    generator = torch.Generator().manual_seed(7)
    slots: dict[str, dict[str, Tensor]] = {"weight": growing.weights(model)}
    for slot in ("exp_avg", "exp_avg_sq"):
        slots[slot] = {
            tensor: torch.randn(value.shape, generator=generator, dtype=torch.float64)
            for tensor, value in slots["weight"].items()
        }
    slots["exp_avg_sq"] = {tensor: value.square() for tensor, value in slots["exp_avg_sq"].items()}
    return slots


def sizes(name: str, width: str, layers: int = 5) -> dict[str, int]:
    family = zoo.family(name)
    special = {
        "duplicate": "double",
        "pad": {"bert": "mlp odd"}.get(family, "odd"),
        "isometric": WIDE[family],
    }
    which = special.get(width) or growing.usual(width, family)
    tokens = {} if family == "vit" else {"vocab_size": 41}
    return {**growing.deeper(name, which, layers), **tokens}


def cast(slots: Mapping[str, Mapping[str, Tensor]], dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
    return {slot: {name: tensor.to(dtype) for name, tensor in found.items()} for slot, found in slots.items()}


@pytest.mark.parametrize(
    ("depth", "noise", "moments", "dtype"),
    [
        ("stack", 0.0, "transport", torch.float64),
        ("identity", 0.5, "transport", torch.float32),
        ("interleave", 0.5, "keep_zero", torch.bfloat16),
    ],
)
@pytest.mark.parametrize(("name", "width"), OPERATORS)
def test_streamed_in_blocks_is_the_whole(
    name: str, width: str, depth: str, noise: float, moments: Moments, dtype: torch.dtype
) -> None:
    draw = random.Random(f"{name} {width} {depth}")
    made = growing.planned(name, sizes(name, width), width=width, depth=depth, noise=noise, moments=moments)
    slots = cast(state(name), dtype)
    one, other = growing.view(made, **slots), growing.view(made, **slots)
    for slot in SLOTS:
        tensors = list(one.names(slot))
        draw.shuffle(tensors)  # another order of reading changes nothing either
        for tensor in tensors:
            whole = one.read(tensor, slot)
            assert whole.dtype == dtype
            cuts = sorted({0, len(whole), *(draw.randrange(len(whole) + 1) for _ in range(2))})
            blocks = [other.read(tensor, slot, slice(*cut)) for cut in pairwise(cuts)]
            assert torch.equal(bits(torch.cat(blocks)), bits(whole)), (tensor, slot)
            rows = torch.tensor([draw.randrange(len(whole)) for _ in range(4)])
            assert torch.equal(bits(other.read(tensor, slot, rows)), bits(whole[rows])), (tensor, slot)


def bits(tensor: Tensor) -> Tensor:
    """What `==` does not see: the sign of a zero, the kind of a NaN."""
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize(
    ("width", "depth"),
    [*((width, "stack") for width in WIDTH if width not in growing.BASE), *(("pad", one) for one in DEPTH)],
)
def test_no_bit_depends_on_the_block(width: str, depth: str) -> None:
    """Every operator: the first row alone, the last one alone, and what is between them, against the whole."""
    made = growing.planned(
        "llama-tied-bias", sizes("llama-tied-bias", width, layers=6), width=width, depth=depth, noise=0.5
    )
    view = growing.view(made, **cast(state("llama-tied-bias"), torch.float32))
    for slot in ("weight", "exp_avg_sq"):
        for tensor in view.names(slot):
            whole = view.read(tensor, slot)
            cuts = sorted({0, 1, len(whole) - 1, len(whole)})
            blocks = [view.read(tensor, slot, slice(*cut)) for cut in pairwise(cuts)]
            assert torch.equal(bits(torch.cat(blocks)), bits(whole)), (tensor, slot)


def test_damage_stays_where_it_is_copied() -> None:
    """A NaN in the source is in the copies of that entry and nowhere else: 0 times NaN is no zero."""
    made = growing.planned("llama", sizes("llama", "pad"), width="pad", depth="stack")
    found = {
        slot: {name: torch.full_like(t, torch.nan) for name, t in ts.items()}
        for slot, ts in state("llama").items()
    }
    view = growing.view(made, weight=found["weight"], exp_avg=found["exp_avg"])
    for slot in ("weight", "exp_avg"):
        for tensor in view.names(slot):
            wanted = growing.covered(made, tensor, slot)
            if slot == "weight" and "vocab" in str(made.large.parameters[tensor].signature):
                continue  # new tokens begin as the mean of the old ones, and so they are damaged too
            assert torch.equal(view.read(tensor, slot).isnan(), wanted), (tensor, slot)


@pytest.mark.parametrize("name", MODELS)
def test_ways_to_ask_for_rows(name: str) -> None:
    view = growing.view(growing.planned(name, sizes(name, "isometric")), **state(name))
    tensor = view.names("weight")[0]
    whole = view.read(tensor, "weight")
    assert torch.equal(view.read(tensor, "weight", slice(-3, None)), whole[-3:])
    assert torch.equal(view.read(tensor, "weight", slice(1, 8, 3)), whole[1:8:3])
    assert view.read(tensor, "weight", slice(4, 4)).shape == (0, *whole.shape[1:])
    assert view.read(tensor, "weight", torch.tensor([], dtype=torch.int64)).shape == (0, *whole.shape[1:])
    assert view.meta(tensor, "weight").shape == whole.shape
    assert view.names("momentum") == ()


@pytest.mark.parametrize(("width", "noise"), [("pad", 0.0), ("isometric", 0.5)])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_seed_decides_the_bits(name: str, width: str, noise: float) -> None:
    to = growing.shape(name, "double")
    plans = [growing.planned(name, to, width=width, noise=noise, seed=seed) for seed in (0, 0, 1)]
    one, same, other = (growing.view(plan, **state(name)) for plan in plans)
    differs = 0
    for slot in SLOTS:
        for tensor in one.names(slot):
            assert torch.equal(one.read(tensor, slot), same.read(tensor, slot))
            differs += not torch.equal(one.read(tensor, slot), other.read(tensor, slot))
    assert differs > 10


def test_two_tensors_draw_different_numbers() -> None:
    made = growing.planned("llama", growing.shape("llama", "double"), noise=0.5)
    quiet = growing.planned("llama", growing.shape("llama", "double"))
    noisy, plain = growing.view(made, **state("llama")), growing.view(quiet, **state("llama"))
    gate, up = (
        noisy.read(name, "weight") - plain.read(name, "weight")
        for name in ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight")
    )
    assert abs(float(torch.corrcoef(torch.stack([gate.flatten(), up.flatten()]))[0, 1])) < 0.1


@pytest.mark.parametrize("depth", growing.COPYING)
@pytest.mark.parametrize(("name", "width"), OPERATORS)
def test_groups_of_same_contents_are_the_same(name: str, width: str, depth: str) -> None:
    made = growing.planned(name, sizes(name, width, layers=8), width=width, depth=depth)
    view = growing.view(made, **state(name))
    shared = 0
    for slot in SLOTS:
        groups = view.groups(slot)
        assert sorted(tensor for group in groups for tensor in group) == sorted(view.names(slot))
        for first, *others in groups:
            shared += len(others)
            for tensor in others:
                assert torch.equal(view.read(first, slot), view.read(tensor, slot)), (first, tensor)
    assert shared > 0


# ---- one joined growth is two growths ------------------------------------------------------------------------------


def two(
    name: str, first: Mapping[str, int], second: Mapping[str, int], **options: str
) -> tuple[Growth, Growth]:
    small = zoo.resolved(name)
    one = build(small, first, **options)  # type: ignore[arg-type]
    return one, build(resolve(plan(one).config), second, **options)  # type: ignore[arg-type]


def both_ways(name: str, one: Growth, then: Growth) -> tuple[GrowthPlan, GrownView, GrownView]:
    joined = plan(one.then(then))
    twice = GrownView(plan(then), growing.view(plan(one), **state(name)))
    return joined, growing.view(joined, **state(name)), twice


GPT2_TWICE = (
    {"n_embd": 48, "n_head": 8, "n_inner": 57},
    {"n_embd": 96, "n_head": 16, "n_inner": 90, "vocab_size": 41},
)
BERT_TWICE = ({"hidden_size": 48, "num_attention_heads": 8}, {"intermediate_size": 61, "vocab_size": 41})
LLAMA_TWICE = (
    {"hidden_size": 30, "num_attention_heads": 6, "intermediate_size": 53},
    {"hidden_size": 48, "num_attention_heads": 12, "intermediate_size": 57, "vocab_size": 41},
)


@pytest.mark.parametrize("depth", growing.COPYING)
@pytest.mark.parametrize(
    ("name", "width", "sizes"),
    [
        ("gpt2", "isometric", GPT2_TWICE),
        ("bert", "isometric", BERT_TWICE),
        ("llama", "isometric", LLAMA_TWICE),
        ("qwen3", "isometric", ({"hidden_size": 35}, {"hidden_size": 50, "intermediate_size": 57})),
        ("qwen3-tied", "isometric", ({"hidden_size": 35}, {"hidden_size": 50, "intermediate_size": 57})),
        ("llama-tied-bias", "isometric", LLAMA_TWICE),
        (
            "llama",
            "duplicate",
            ({"intermediate_size": 80, "hidden_size": 48}, {"hidden_size": 96, "head_dim": 16}),
        ),
        ("bert", "pad", ({"num_hidden_layers": 4}, {"vocab_size": 41})),
    ],
)
def test_joined_growths_are_growing_twice(
    name: str, width: str, sizes: tuple[Mapping[str, int], Mapping[str, int]], depth: str
) -> None:
    first, second = {**sizes[0], "num_hidden_layers": 5}, {**sizes[1], "num_hidden_layers": 8}
    one, then = two(name, first, second, width=width, depth=depth)
    joined, at_once, twice = both_ways(name, one, then)
    assert joined.keeps_function == (plan(one).keeps_function and plan(then).keeps_function)
    wanted = plan(then).config
    assert {key: value for key, value in joined.config.items() if not isinstance(value, float)} == {
        key: value for key, value in wanted.items() if not isinstance(value, float)
    }
    for key, value in wanted.items():
        if isinstance(value, float):
            assert joined.config[key] == pytest.approx(value, rel=1e-12), key
    for slot in SLOTS:
        assert at_once.names(slot) == twice.names(slot)
        for tensor in at_once.names(slot):
            left, right = at_once.read(tensor, slot), twice.read(tensor, slot)
            if (
                slot == "exp_avg_sq" and joined.recipes[slot][tensor].fills
            ):  # new entries: the mean of another v
                old = growing.covered(joined, tensor, slot)
                left, right = left[old], right[old]
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-14, msg=f"{slot} of {tensor}")


@pytest.mark.parametrize(
    ("name", "options"), [("llama", {"width": "pad"}), ("llama", {"noise": 0.5}), ("gpt2", {"width": "pad"})]
)
def test_growths_with_drawn_values_cannot_be_joined(name: str, options: dict[str, str]) -> None:
    one, then = two(name, {"intermediate_size": 80}, {"intermediate_size": 90}, **options)
    with pytest.raises(GrowthError, match="cannot be joined"):
        one.then(then)
