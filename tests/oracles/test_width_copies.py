"""isometric, duplicate and pad a second time: naive loops straight from the formula, in numpy, without any of outgrow's algebra.

Two tensor sets stand for all: a Llama (RMSNorm, grouped queries, gated MLP, untied) and a GPT-2 (LayerNorm, Conv1D,
fused query | key | value, tied). Each has one layer's worth of formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from battery import growing
from oracles.layers import SLOTS, state

Array = NDArray[np.float64]
Tensors = dict[str, Array]
Copies = list[int]  # new unit -> old unit, or -1 for a new unit that copies nothing


def cyclic(small: int, large: int) -> Copies:
    return [unit % small for unit in range(large)]


def kept(small: int, large: int) -> Copies:
    return [unit if unit < small else -1 for unit in range(large)]


def count(copies: Copies, unit: int) -> int:
    return sum(1 for other in copies if other == unit)


def every(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return np.ndindex(*shape)


# ---- Llama: what one entry of each tensor is ------------------------------------------------------------------------
#
# With e(j) the old channel of new channel j, copied c_j times; m(i), h(k), g likewise for MLP units, key/value heads and
# groups. An activation x of the small model arrives in the large one as
#
#     isometric   x'[j] = x[e(j)] / sqrt(c_j)      RMS(x')² = d/D · RMS(x)²
#     duplicate   x'[j] = x[e(j)]                  RMS(x')  = RMS(x)
#     pad         x'[j] = x[j], 0 for new j        RMS(x')² = d/D · RMS(x)²
#
# and a gradient arrives as  δ'[j] = δ[e(j)] / sqrt(c_j),  δ[e(j)] / c_j,  δ[j].

Share = Callable[[Copies, int], float]
"""(copies, new unit) -> the number that an activation, or a gradient, is multiplied with on arrival."""


def one(copies: Copies, unit: int) -> float:
    return 1.0


def part(copies: Copies, unit: int) -> float:
    return 1 / count(copies, copies[unit])


def root(copies: Copies, unit: int) -> float:
    return 1 / sqrt(count(copies, copies[unit]))


STREAM: dict[str, tuple[Share, Share]] = {
    "isometric": (root, root),
    "duplicate": (one, part),
    "pad": (one, one),
}
"""Shares of (activations, gradients) of the residual stream."""
INNER: dict[str, tuple[Share, Share]] = {
    "isometric": (one, part),
    "duplicate": (one, part),
    "pad": (one, one),
}
"""The same behind a nonlinearity and for whole heads, which cannot be scaled."""


class Axis:
    """An axis with its copies and the shares of its activations (x) and gradients (g)."""

    def __init__(self, copies: Copies, shares: tuple[Share, Share]) -> None:
        self.copies, self.shares = copies, shares

    def x(self, unit: int) -> float:
        return self.shares[0](self.copies, unit) if self.copies[unit] >= 0 else 0.0

    def g(self, unit: int) -> float:
        return self.shares[1](self.copies, unit) if self.copies[unit] >= 0 else 0.0

    def old(self, unit: int) -> int:
        return self.copies[unit]


def matrix(old: Array, outs: list[Axis], ins: list[Axis], out_first: bool, slot: str) -> tuple[Array, Array]:
    """One matrix, entry by entry: (grown, which entries come from an old one).

    weight      W'[o, i] = x(o) · g(i) · W[old o, old i]       what is written arrives as x, what is read is shared as g
    exp_avg     m'[o, i] = g(o) · x(i) · m[old o, old i]       a gradient is (gradient of the output) · (input)
    exp_avg_sq  v'[o, i] = (g(o) · x(i))² · v[old o, old i]
    """
    dims = [*outs, *ins] if out_first else [*ins, *outs]
    shape = tuple(len(axis.copies) for axis in dims)
    grown, known = np.zeros(shape), np.zeros(shape, dtype=bool)
    for place in every(shape):
        source = tuple(axis.old(unit) for axis, unit in zip(dims, place, strict=True))
        if min(source) < 0:
            continue
        factor = 1.0
        for axis, unit in zip(dims, place, strict=True):
            writes = axis in outs
            factor *= axis.x(unit) if writes == (slot == "weight") else axis.g(unit)
        grown[place] = old[source] * (factor**2 if slot == "exp_avg_sq" else factor)
        known[place] = True
    return grown, known


def gain(old: Array, stream: Axis, rho: float, slot: str) -> tuple[Array, Array]:
    """A norm's gain: weight × ρ, so that ρ·RMSNorm(x') = RMSNorm(x) as the stream carries it; gradients g·x / ρ."""
    size = len(stream.copies)
    grown, known = np.zeros(size), np.zeros(size, dtype=bool)
    for unit in range(size):
        if stream.old(unit) >= 0:
            factor = rho if slot == "weight" else stream.g(unit) * stream.x(unit) / rho
            grown[unit] = old[stream.old(unit)] * (factor**2 if slot == "exp_avg_sq" else factor)
            known[unit] = True
    return grown, known


def llama(old: Tensors, width: str, slot: str) -> dict[str, tuple[Array, Array]]:
    """Llama from 24 to 40 (or 48) channels, 2 to 4 key/value heads of 2 queries, 40 to 53 (or 80) MLP units."""
    wide, mlps = (48, 80) if width == "duplicate" else (40, 53)
    how = kept if width == "pad" else cyclic
    stream, tokens = Axis(how(24, wide), STREAM[width]), Axis(list(range(37)), (one, one))
    mlp, kv = Axis(how(40, mlps), INNER[width]), Axis(how(2, 4), INNER[width])
    group, head = Axis([0, 1], (one, one)), Axis(list(range(8)), (one, one))
    rho = 1.0 if width == "duplicate" else sqrt(24 / wide)
    found = {}
    for name, value in old.items():
        if name.endswith("norm.weight"):
            found[name] = gain(value, stream, rho, slot)
        elif "embed_tokens" in name:
            found[name] = matrix(value, [stream], [tokens], False, slot)
        elif "lm_head" in name:
            found[name] = matrix(value, [tokens], [stream], True, slot)
        elif "q_proj" in name:
            split = value.reshape(2, 2, 8, 24)
            grown, known = matrix(split, [kv, group, head], [stream], True, slot)
            found[name] = grown.reshape(-1, wide), known.reshape(-1, wide)
        elif "k_proj" in name or "v_proj" in name:
            grown, known = matrix(value.reshape(2, 8, 24), [kv, head], [stream], True, slot)
            found[name] = grown.reshape(-1, wide), known.reshape(-1, wide)
        elif "o_proj" in name:
            grown, known = matrix(value.reshape(24, 2, 2, 8), [stream], [kv, group, head], True, slot)
            found[name] = grown.reshape(wide, -1), known.reshape(wide, -1)
        elif "down_proj" in name:
            found[name] = matrix(value, [stream], [mlp], True, slot)
        else:
            assert "gate_proj" in name or "up_proj" in name
            found[name] = matrix(value, [mlp], [stream], True, slot)
    return found


LLAMA_TO = {
    "isometric": {
        "hidden_size": 40,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 53,
    },
    "duplicate": {
        "hidden_size": 48,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 80,
    },
    "pad": {"hidden_size": 40, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 53},
}


# ---- GPT-2 ----------------------------------------------------------------------------------------------------------


class Stream(Axis):
    """A LayerNorm stream under padding: new channels carry the mean of the old ones, and norms turn them into zero."""

    def __init__(self, copies: Copies, shares: tuple[Share, Share]) -> None:
        super().__init__(copies, shares)
        self.new = [unit for unit, source in enumerate(copies) if source < 0]


def with_means(
    grown: Array, known: Array, stream: Stream, old: Array, dim: int, ins: list[Axis]
) -> tuple[Array, Array]:
    """The rows that write a new channel hold the mean of the rows that write the old ones, read as those are."""
    size = len(stream.copies) - len(stream.new)
    for place in every(grown.shape):
        if place[dim] in stream.new:
            total, factor, covers = 0.0, 1.0, True
            for axis, unit in zip(ins, (p for other, p in enumerate(place) if other != dim), strict=True):
                covers = covers and axis.old(unit) >= 0
                factor *= axis.g(unit)
            if not covers:
                continue
            for channel in range(size):
                source = [
                    axis.old(unit)
                    for axis, unit in zip(ins, (p for o, p in enumerate(place) if o != dim), strict=True)
                ]
                source.insert(dim, channel)
                total += old[tuple(source)]
            grown[place] = factor * total / size
            known[place] = True
    return grown, known


def gpt2(old: Tensors, width: str, slot: str) -> dict[str, tuple[Array, Array]]:
    """GPT-2 with heads of 6: 24 to 48 channels (4 to 8 heads) or, padded, to 36 (6 heads); MLP 40 to 80 or 53.

    Its head is tied. Under duplication the table is copied and its readers cannot share: the last norm's gain does.
    The isometric stream, 24 to 48, is every unit twice, over √2; LayerNorm's ρ is √(24/48), the table keeps G = F.
    """
    wide, heads, mlps = {"isometric": (48, 8, 53), "duplicate": (48, 8, 80), "pad": (36, 6, 53)}[width]
    how = kept if width == "pad" else cyclic
    stream = Stream(how(24, wide), STREAM[width])
    mlp, head, inner = (
        Axis(how(40, mlps), INNER[width]),
        Axis(how(4, heads), INNER[width]),
        Axis(list(range(6)), (one, one)),
    )
    tokens, positions, three = (Axis(list(range(size)), (one, one)) for size in (37, 16, 3))
    rho = 1.0 if width == "duplicate" else sqrt(24 / wide)
    final = (
        0.5 if width == "duplicate" else 1.0
    )  # c = 2 copies of each entry of the table: logits would double
    found = {}
    for name, value in old.items():
        if ".ln_" in name and name.endswith("weight"):
            share = rho * (final if "ln_f" in name else 1.0)
            grown, known = gain(value, stream, share, slot)
            if "ln_f" in name and slot != "weight" and width == "duplicate":
                # the gradient of a final gain is (gradient of the output, in full) · (normed input)
                grown, known = gain(value, Axis(stream.copies, (one, one)), 1.0, slot)
            if slot == "weight" and width == "pad":
                grown[24:], known[24:] = share * value.mean(), True
            found[name] = grown, known
        elif ".ln_" in name:
            axis = Axis(stream.copies, stream.shares)
            if "ln_f" in name and width == "duplicate":
                axis = Axis(stream.copies, (part, one))
            found[name] = matrix(value, [axis], [], True, slot)
            if slot == "weight":
                found[name][1][:] = True  # the bias of a channel that carries nothing is zero
        elif "wte" in name or "wpe" in name:
            places = tokens if "wte" in name else positions
            found[name] = matrix(value, [stream], [places], False, slot)
            if slot == "weight" and width == "pad":
                found[name] = with_means(*found[name], stream, value, 1, [places])
        elif "c_attn" in name:
            parts = value.reshape(*value.shape[:-1], 3, 4, 6)
            grown, known = matrix(
                parts, [three, head, inner], [stream] if value.ndim == 2 else [], False, slot
            )
            shape = (*grown.shape[:-3], -1)
            found[name] = grown.reshape(shape), known.reshape(shape)
        elif "c_proj" in name and value.ndim == 2:
            ins = [mlp] if "mlp" in name else [head, inner]
            split = value if "mlp" in name else value.reshape(4, 6, 24)
            grown, known = matrix(split, [stream], ins, False, slot)
            if slot == "weight" and width == "pad":
                grown, known = with_means(grown, known, stream, split, split.ndim - 1, ins)
            found[name] = grown.reshape(-1, wide), known.reshape(-1, wide)
        elif "c_proj" in name:
            found[name] = matrix(value, [stream], [], True, slot)
            if slot == "weight" and width == "pad":
                found[name] = with_means(*found[name], stream, value, 0, [])
        else:
            assert "c_fc" in name
            found[name] = matrix(value, [mlp], [stream] if value.ndim == 2 else [], value.ndim == 1, slot)
    return found


GPT2_TO = {
    "isometric": {"n_embd": 48, "n_head": 8, "n_inner": 53},
    "duplicate": {"n_embd": 48, "n_head": 8, "n_inner": 80},
    "pad": {"n_embd": 36, "n_head": 6, "n_inner": 53},
}
ORACLES = {"llama": (llama, LLAMA_TO), "gpt2": (gpt2, GPT2_TO)}


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("width", ["isometric", "duplicate", "pad"])
@pytest.mark.parametrize("name", ORACLES)
def test_width(name: str, width: str, slot: str) -> None:
    oracle, to = ORACLES[name]
    old = state(name)
    plan = growing.planned(name, to[width], width=width)
    view = growing.view(plan, **old)
    expected = oracle({tensor: value.numpy() for tensor, value in old[slot].items()}, width, slot)
    assert set(expected) == set(view.names(slot))
    compared = 0
    for tensor, (value, known) in expected.items():
        grown = view.read(tensor, slot).numpy()
        assert grown.shape == value.shape, tensor
        np.testing.assert_allclose(
            grown[known], value[known], rtol=1e-12, atol=1e-15, err_msg=f"{slot} of {tensor}"
        )
        compared += int(known.sum())
        if width != "pad":
            assert known.all()
        elif slot == "exp_avg":
            assert not grown[~known].any()
    assert compared > 10_000


def test_padding_is_silent_on_one_side() -> None:
    """New MLP units and heads: fresh writers, zero readers. New channels: zero writers, fresh readers."""
    plan = growing.planned("llama", LLAMA_TO["pad"], width="pad")
    view = growing.view(plan, **state("llama"))
    layer = "model.layers.0."
    for name, writes, reads in (("mlp.down_proj", 24, 40), ("self_attn.o_proj", 24, 32)):
        down = view.read(f"{layer}{name}.weight", "weight")
        assert not down[writes:].any()  # nothing is written into new channels
        assert not down[:, reads:].any()  # nothing is read from new units
    for name, rows in (
        ("mlp.up_proj", 40),
        ("mlp.gate_proj", 40),
        ("self_attn.q_proj", 32),
        ("self_attn.k_proj", 16),
    ):
        up = view.read(f"{layer}{name}.weight", "weight")
        assert bool((up[rows:] != 0).all())
        assert bool((up[:, 24:] != 0).all())
    assert not view.read("model.embed_tokens.weight", "weight")[:, 24:].any()
    assert bool((view.read("lm_head.weight", "weight")[:, 24:] != 0).all())
