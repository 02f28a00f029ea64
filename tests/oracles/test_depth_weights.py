"""Depth operators that change what they copy, a second time, entry by entry: shares of noise, zero norms, pairs, fresh layers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from oracles.layers import BRANCH_ENDS, PREFIXES, deepened, in_layers, state

NORMS = ("input_layernorm", "post_attention_layernorm", "ln_1", "ln_2")


@pytest.mark.parametrize("name", PREFIXES)
def test_gstack_mixes_a_share_of_noise_into_copies(name: str) -> None:
    """W' = (1 - a)·W + a·ε: what is left after (1 - a)·W is noise of a·0.02, in matrices of copies alone."""
    old, share = state(name), 0.2
    drawn = []
    for layer, rest, grown in in_layers(
        name, deepened(name, old, f"gstack:noise_share={share}", 6), "weight"
    ):
        source = old["weight"][f"{PREFIXES[name]}{layer % 3}.{rest}"]
        if layer < 3 or grown.dim() < 2:
            assert torch.equal(grown, source)
        else:
            noise = torch.zeros_like(source)
            for row in range(len(source)):
                for column in range(source.shape[1]):
                    noise[row, column] = grown[row, column] - (1 - share) * source[row, column]
            drawn.append(noise.flatten())
    noise = torch.cat(drawn)
    assert float(noise.std()) == pytest.approx(share * 0.02, rel=0.03)
    assert abs(float(noise.mean())) < 3 * share * 0.02 / len(noise) ** 0.5
    for one, other in pairwise(drawn):
        assert not torch.equal(one[:64], other[:64])


@pytest.mark.parametrize("name", PREFIXES)
def test_gstack_moments_are_copied_and_not_mixed(name: str) -> None:
    old = state(name)
    for layer, rest, grown in in_layers(name, deepened(name, old, "gstack:noise_share=0.2", 6), "exp_avg"):
        assert torch.equal(grown, old["exp_avg"][f"{PREFIXES[name]}{layer % 3}.{rest}"])


@pytest.mark.parametrize("name", PREFIXES)
def test_the_papers_identity_has_zero_norms_and_biases(name: str) -> None:
    old = state(name)
    for layer, rest, grown in in_layers(name, deepened(name, old, "staged:zero=norms", 6), "weight"):
        if layer % 2 and grown.dim() == 1:
            assert not grown.any(), rest
        else:
            assert torch.equal(grown, old["weight"][f"{PREFIXES[name]}{layer // 2}.{rest}"])


# (matrix, dimension of the paired units, their number, heads they stand in, whether they are read)
PAIRED = {
    "llama-tied-bias": [
        ("mlp.gate_proj.weight", 0, 40, 1, False),
        ("mlp.gate_proj.bias", 0, 40, 1, False),
        ("mlp.up_proj.weight", 0, 40, 1, False),
        ("mlp.up_proj.bias", 0, 40, 1, False),
        ("mlp.down_proj.weight", 1, 40, 1, True),
        ("self_attn.v_proj.weight", 0, 8, 2, False),
        ("self_attn.v_proj.bias", 0, 8, 2, False),
        ("self_attn.o_proj.weight", 1, 8, 4, True),
    ],
    "gpt2": [
        ("mlp.c_fc.weight", 1, 40, 1, False),
        ("mlp.c_fc.bias", 0, 40, 1, False),
        ("mlp.c_proj.weight", 0, 40, 1, True),
        ("attn.c_proj.weight", 0, 6, 4, True),
    ],
}


@pytest.mark.parametrize("name", PREFIXES)
def test_lemon_pairs_are_written_alike_and_read_with_opposite_signs(name: str) -> None:
    old = state(name)
    view = deepened(name, old, "lemon", 6)
    for layer in range(6):
        for tensor, dim, units, heads, read in PAIRED[name]:
            source = old["weight"][f"{PREFIXES[name]}{layer // 2}.{tensor}"]
            grown = view.read(f"{PREFIXES[name]}{layer}.{tensor}", "weight")
            expected = source.clone()
            for head in range(heads if layer % 2 else 0):
                for unit in range(units // 2):
                    first, second = head * units + unit, head * units + units // 2 + unit
                    sign = -1 if read else 1
                    expected.select(dim, second).copy_(sign * source.select(dim, first))
            assert torch.equal(grown, expected), (layer, tensor)
    touched = {tensor for tensor, *_ in PAIRED[name]}
    for layer, rest, grown in in_layers(name, view, "weight"):
        if layer % 2 and rest.startswith(BRANCH_ENDS) and rest.endswith("bias"):
            assert not grown.any()
        elif rest not in touched and not rest.startswith("attn.c_attn"):
            assert torch.equal(grown, old["weight"][f"{PREFIXES[name]}{layer // 2}.{rest}"]), rest
    for layer, rest, grown in in_layers(name, view, "exp_avg"):
        assert bool(grown.any()) == (layer % 2 == 0), rest


def test_lemon_pairs_inside_a_fused_matrix() -> None:
    """GPT-2's query | key | value: queries and keys are copies, values stand in pairs."""
    old = state("gpt2")
    view = deepened("gpt2", old, "lemon", 6)
    for kind in ("weight", "bias"):
        source = old["weight"][f"transformer.h.0.attn.c_attn.{kind}"]
        grown = view.read(f"transformer.h.1.attn.c_attn.{kind}", "weight")
        assert torch.equal(grown[..., :48], source[..., :48])
        for head in range(4):
            for unit in range(6):
                copied = source[..., 48 + head * 6 + unit % 3]
                assert torch.equal(grown[..., 48 + head * 6 + unit], copied)


@pytest.mark.parametrize("outputs", ["random", "zero"])
@pytest.mark.parametrize(("order", "fresh"), [("append", {3, 4}), ("alternate", {1, 3})])
@pytest.mark.parametrize("name", PREFIXES)
def test_fresh_layers(name: str, order: str, fresh: set[int], outputs: str) -> None:
    """Matrices are N(0, 0.02²), norms (1, 0), biases 0; no moments; with outputs=zero the last matrices are zero."""
    old = state(name)
    view = deepened(name, old, f"random:order={order},outputs={outputs}", 5)
    kept = [layer for layer in range(5) if layer not in fresh]
    drawn = []
    for slot in ("weight", "exp_avg", "exp_avg_sq"):
        for layer, rest, grown in in_layers(name, view, slot):
            if layer not in fresh:
                source = f"{PREFIXES[name]}{kept.index(layer)}.{rest}"
                assert torch.equal(grown, old[slot][source])
            elif slot != "weight" or (outputs == "zero" and rest.startswith(BRANCH_ENDS)):
                assert not grown.any()
            elif grown.dim() > 1:
                drawn.append(grown.flatten())
            else:
                gain = rest.split(".")[0] in NORMS and rest.endswith("weight")
                assert torch.equal(grown, torch.full_like(grown, 1.0 if gain else 0.0))
    values = torch.cat(drawn)
    assert float(values.std()) == pytest.approx(0.02, rel=0.03)
