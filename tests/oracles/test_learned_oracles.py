"""LiGO and Mango a second time: the papers' formulas as plain loops and full tensors, against the recipe path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from battery import growing, zoo
from outgrow.growth.plan import plan
from outgrow.growth.target import target
from outgrow.methods.build import build
from outgrow.methods.learned.form import stacked
from outgrow.methods.learned.ligo import Ligo, initial
from outgrow.methods.learned.mango import Mango, ring_start

Weights = dict[str, Tensor]
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}  # float64, another order of sums

TO: dict[str, dict[str, int]] = {
    "gpt2": growing.shape("gpt2", "odd"),
    "llama": growing.shape("llama", "odd"),
    "bert": growing.shape("bert", "heads"),
}
# module -> (what it writes, what it reads, its place among fused matrices); LN and biases only write.
MODULES: dict[str, dict[str, tuple[str, ...]]] = {
    "gpt2": {
        "attn.c_attn": ("q", "k", "v"),
        "attn.c_proj": ("emb", "v"),
        "mlp.c_fc": ("fc1", "emb"),
        "mlp.c_proj": ("emb", "fc1"),
        "ln_1": ("emb",),
        "ln_2": ("emb",),
    },
    "bert": {
        "attention.self.query": ("q", "emb"),
        "attention.self.key": ("k", "emb"),
        "attention.self.value": ("v", "emb"),
        "attention.output.dense": ("emb", "v"),
        "attention.output.LayerNorm": ("emb",),
        "intermediate.dense": ("fc1", "emb"),
        "output.dense": ("emb", "fc1"),
        "output.LayerNorm": ("emb",),
    },
    "llama": {
        "self_attn.q_proj": ("q", "emb"),
        "self_attn.k_proj": ("k", "emb"),
        "self_attn.v_proj": ("v", "emb"),
        "self_attn.o_proj": (
            "emb",
            "group v",
        ),  # grouped heads: the paper has none, W_O reads a map of its own
        "input_layernorm": ("emb",),
        "post_attention_layernorm": ("emb",),
        "mlp.gate_proj": ("fc1", "emb"),
        "mlp.up_proj": ("fc1", "emb"),
        "mlp.down_proj": ("emb", "fc1"),
    },
}
SPACES = {
    "emb": "embed",
    "fc1": "mlp",
    "q": {"llama": "kv_heads group query_dim", "": "heads query_dim"},
    "k": {"llama": "kv_heads key_dim", "": "heads key_dim"},
    "v": {"llama": "kv_heads value_dim", "": "heads value_dim"},
    "group v": "kv_heads group value_dim",
}


def matrix(values: Mapping[str, Tensor], name: str, family: str) -> Tensor:
    """B = [I; R]."""
    space: Any = SPACES[name]
    space = space if isinstance(space, str) else space.get(family, space[""])
    free = values[f"map.{space}"]
    return torch.cat([torch.eye(free.shape[1], dtype=free.dtype), free])


def algorithm_1(name: str, small: Weights, values: Mapping[str, Tensor], layers: tuple[int, int]) -> Weights:
    """Width first, layer by layer; then depth, X_i = Σ_j w_ij X_j, for every kind by itself (arXiv 2303.00980, Alg. 1)."""
    b = {key: matrix(values, key, name) for key in SPACES if key != "group v" or name == "llama"}
    stem = {"gpt2": "transformer.h.", "bert": "bert.encoder.layer.", "llama": "model.layers."}[name]
    large: Weights = {}
    for parameter, value in small.items():
        if parameter.startswith(stem):
            continue
        if value.dim() == 2 and "transform.dense" in parameter:
            large[parameter] = b["emb"] @ value @ b["emb"].T
        elif value.dim() == 2:  # embeddings, and a head: rows are tokens or positions
            large[parameter] = value @ b["emb"].T
        else:
            large[parameter] = b["emb"] @ value if len(value) == b["emb"].shape[1] else value
    for module, maps in MODULES[name].items():
        for kind in ("weight", "bias"):
            if f"{stem}0.{module}.{kind}" not in small:
                continue
            wide = [
                widened(name, module, kind, small[f"{stem}{j}.{module}.{kind}"], maps, b)
                for j in range(layers[0])
            ]
            for i in range(layers[1]):
                pieces = []
                for place in range(len(wide[0])):
                    suffix = f"#{place}" if len(wide[0]) > 1 else ""
                    w = values[f"layers.{stem}{{L}}.{module}.{kind}{suffix}"]
                    total = torch.zeros_like(wide[0][place])
                    for j in range(layers[0]):
                        total = total + w[i, j] * wide[j][place]
                    pieces.append(total)
                large[f"{stem}{i}.{module}.{kind}"] = torch.cat(pieces, dim=-1)
    return large


def widened(
    name: str, module: str, kind: str, value: Tensor, maps: tuple[str, ...], b: Mapping[str, Tensor]
) -> list[Tensor]:
    """Every matrix of a module, wide: B W Aᵀ, in storage order (GPT-2 stores (in, out), and Q | K | V as one)."""
    if maps == ("q", "k", "v"):
        parts = value.chunk(3, dim=-1)
        if kind == "bias":
            return [b[key] @ part for key, part in zip(maps, parts, strict=True)]
        return [(b[key] @ part.T @ b["emb"].T).T for key, part in zip(maps, parts, strict=True)]
    if kind == "bias" or len(maps) == 1:
        return [b[maps[0]] @ value]
    if name == "gpt2":
        return [(b[maps[0]] @ value.T @ b[maps[1]].T).T]
    return [b[maps[0]] @ value @ b[maps[1]].T]


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_ligo_is_algorithm_1(name: str) -> None:
    small = zoo.resolved(name)
    large = target(small, TO[name])
    form = Ligo(small, large)
    values = initial(form, width="random", depth="random", seed=3, dtype=torch.float64)
    weights = growing.weights(zoo.build(zoo.config(name)))
    view = growing.view(plan(form.growth(values), "reset"), weight=weights)
    expected = algorithm_1(name, weights, values, (small.layers, large.layers))
    assert set(expected) == set(view.names("weight"))
    for parameter, value in expected.items():
        torch.testing.assert_close(view.read(parameter, "weight"), value, **ROUNDING, msg=parameter)


@pytest.mark.parametrize(("ligo", "depth"), [("stack", "stack"), ("interleave", "interleave")])
def test_proposition_1_depth(ligo: str, depth: str) -> None:
    """StackBERT and interpolation are LiGO with one-hot w."""
    small = zoo.resolved("bert")
    to = {"num_hidden_layers": 7}
    weights = growing.weights(zoo.build(zoo.config("bert")))
    form = Ligo(small, target(small, to))
    learned = growing.view(
        plan(form.growth(initial(form, depth=ligo, dtype=torch.float64)), "reset"), weight=weights
    )
    direct = growing.view(plan(build(small, to, depth=depth), "reset"), weight=weights)
    for name in direct.names("weight"):
        torch.testing.assert_close(
            learned.read(name, "weight"), direct.read(name, "weight"), rtol=0, atol=0, msg=name
        )


def test_proposition_1_net2net() -> None:
    """Net2Net is LiGO untied: B copies units, A divides by the number of copies. Tied, it cannot be said."""
    small = zoo.resolved("gpt2-untied")
    to = {"n_inner": 80, "hidden_size": 48, "num_attention_heads": 8}
    form = Ligo(small, target(small, to), "free")
    values = {}
    for name, (rows, columns) in form.shapes().items():
        copy = torch.zeros(rows, columns, dtype=torch.float64)
        for row in range(rows):
            copy[row, row % columns] = 1
        values[name] = copy / (rows // columns) if name.endswith("read") else copy
    weights = growing.weights(zoo.build(zoo.config("gpt2-untied")))
    learned = growing.view(plan(form.growth(values), "reset"), weight=weights)
    direct = growing.view(plan(build(small, to, width="duplicate"), "reset"), weight=weights)
    for name in direct.names("weight"):
        torch.testing.assert_close(
            learned.read(name, "weight"), direct.read(name, "weight"), **ROUNDING, msg=name
        )


# ---- Mango ----------------------------------------------------------------------------------------------------------

SMALL_GPT2 = {"n_embd": 4, "n_head": 2, "n_layer": 2, "n_inner": 7, "n_positions": 5, "vocab_size": 9}
GPT2_BLOCKS = {"n_embd": 6, "n_head": 3, "n_layer": 3, "n_inner": 11}


def gpt2_blocks(weights: Weights, layers: int, size: int, k: int) -> Tensor:
    """M (B, O, L, I): Q, K, V, O, k blocks of fc1 along its outputs, k of fc2 along its inputs; zeros fill the last."""
    m = torch.zeros(2 * k + 4, size, layers, size, dtype=torch.float64)
    for layer in range(layers):
        stem = f"transformer.h.{layer}."
        q, key, v = weights[f"{stem}attn.c_attn.weight"].T.split(size)
        fc1, fc2 = weights[f"{stem}mlp.c_fc.weight"].T, weights[f"{stem}mlp.c_proj.weight"].T
        for block, value in enumerate((q, key, v, weights[f"{stem}attn.c_proj.weight"].T)):
            m[block, :, layer] = value
        share = -(-len(fc1) // k)
        for block in range(k):
            part = slice(block * share, (block + 1) * share)
            m[4 + block, : len(fc1[part]), layer] = fc1[part]
            m[4 + k + block, :, layer, : fc2[:, part].shape[1]] = fc2[:, part]
    return m


@pytest.mark.parametrize("rank", [1, 2])
def test_mango_is_the_full_tensor(rank: int) -> None:
    """The recipe path against S itself: 8 indices, contracted at once."""
    config = {**zoo.config("gpt2"), **SMALL_GPT2}
    from outgrow.models.architecture import resolve

    small = resolve(config)
    form = Mango(small, target(small, GPT2_BLOCKS), rank)
    values = {name: value.double() for name, value in ring_start(form, noise=0.3, seed=2).items()}
    weights = growing.weights(zoo.build(config))
    view = growing.view(plan(form.growth(values), "reset"), weight=weights)
    ring = [values[f"ring.{name}"] for name in "BOLI"]
    s = torch.einsum("wBbx,xOoy,yLlz,zIiw->BbOoLlIi", *ring)
    m1 = gpt2_blocks(weights, 2, 4, 2)
    m2 = torch.einsum("BbOoLlIi,boli->BOLI", s, m1)
    got = gpt2_blocks({name: view.read(name, "weight") for name in view.names("weight")}, 3, 6, 2)
    # A last block that does not fill its share is cut: its rest is not read.
    torch.testing.assert_close(got, torch.where(got == 0, 0.0, m2), **ROUNDING)
    assert (
        int((got == 0).sum()) == 2 * 3 * 6
    )  # one unit short of two blocks of six: a row of fc1, a column of fc2


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert-untied", "qwen3", "mixtral"])
def test_the_fit_s_weights_are_the_recipe_s(name: str) -> None:
    """`Form.grown` on tensors and `Form.growth` as recipes are one operator."""
    small = zoo.resolved(name)
    large = target(small, TO[zoo.family(name)])
    weights = growing.weights(zoo.build(zoo.config(name)))
    ligo, mango = Ligo(small, large, "tied"), Mango(small, large, 2)
    starts: list[tuple[Ligo | Mango, dict[str, Tensor]]] = [
        (ligo, initial(ligo, width="sel_noisy", depth="interleave_noisy", dtype=torch.float64)),
        (mango, {key: value.double() for key, value in ring_start(mango, noise=0.1).items()}),
    ]
    for form, values in starts:
        view = growing.view(plan(form.growth(values), "reset"), weight=weights)
        grown = form.grown(values, stacked(small, weights), frozenset())
        assert set(grown) == set(view.names("weight"))
        for parameter, value in grown.items():
            torch.testing.assert_close(value, view.read(parameter, "weight"), **ROUNDING, msg=parameter)
