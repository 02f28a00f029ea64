"""Every architecture file both ways against real transformers models, and its signatures against their symmetries."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from battery import zoo
from outgrow.algebra.axes import Dim
from outgrow.errors import ArchitectureError, GrowthError
from outgrow.growth.target import target
from outgrow.models.architecture import described, growable, load_architecture, resolve
from outgrow.models.expressions import size_of
from outgrow.models.files import merged
from outgrow.models.model import Model
from outgrow.models.spec import ArchitectureSpec

TYPES = sorted({entry["model_type"] for entry in zoo.CONFIGS.values()})
"""The types of the zoo, with all their options; every other type is checked by its own example in tests/test_types.py."""
NOTES = Path(__file__).parents[2] / "shared" / "notes" / "architectures.json"

LARGER: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 60, "n_head": 6, "n_layer": 2, "n_inner": None, "n_positions": 9, "vocab_size": 71},
    "bert": {"hidden_size": 60, "num_attention_heads": 5, "num_hidden_layers": 1, "intermediate_size": 77},
    "llama": {
        "hidden_size": 60,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "num_hidden_layers": 2,
        "intermediate_size": 77,
        "head_dim": 14,
    },
}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "gpt2": [{"tie_word_embeddings": False}],
    "bert": [{"tie_word_embeddings": False}],
    "roberta": [{"tie_word_embeddings": False}],
    "gpt_neox": [{"tie_word_embeddings": True}, {"attention_bias": False}],
    "llama": [
        {"tie_word_embeddings": True},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"head_dim": None},
        {"num_key_value_heads": None},
    ],
    "mistral": [{"tie_word_embeddings": True}, {"head_dim": None}],
    "mixtral": [{"tie_word_embeddings": True}, {"num_local_experts": 3, "num_experts_per_tok": 1}],
    "eurobert": [{"tie_word_embeddings": True}, {"attention_bias": True}, {"mlp_bias": True}],
    "qwen2": [{"tie_word_embeddings": True}],
    "qwen3": [{"tie_word_embeddings": True}, {"attention_bias": True}],
    "qwen3_moe": [{"tie_word_embeddings": True}, {"attention_bias": True}],
    "vit": [{"qkv_bias": False}, {"num_labels": 2}, {"num_channels": 1}],
    "deit": [{"qkv_bias": False}, zoo.TEACHER],
}


def base(model_type: str) -> dict[str, Any]:
    """The zoo's small config of a model type."""
    family = {
        "qwen3_moe": zoo.QWEN3_MOE,
        "gpt2": zoo.GPT2,
        "gpt_neox": zoo.NEOX,
        "bert": zoo.BERT,
        "roberta": {**zoo.BERT, **zoo.ROBERTA},
    }
    if load_architecture(model_type).objective == "image":
        return zoo.VIT
    return {**zoo.TOKENS, **family.get(model_type, zoo.LLAMA)}


CONFIGS = [
    pytest.param(
        model_type, {**sizes, **options}, id=f"{model_type}-{label}-{'-'.join(options) or 'default'}"
    )
    for model_type in TYPES
    for label, sizes in (
        ("small", {}),
        (
            "large",
            LARGER.get(
                model_type, LARGER["bert" if model_type == "roberta" or "it" in model_type else "llama"]
            ),
        ),
    )
    for options in ({}, *OPTIONS.get(model_type, []))
]


def full(model_type: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    import transformers

    settings = {**base(model_type), **changes}
    return transformers.AutoConfig.for_model(model_type, **settings).to_dict()


@pytest.mark.parametrize(("model_type", "changes"), CONFIGS)
def test_names_and_shapes_both_ways(model_type: str, changes: dict[str, Any]) -> None:
    config = full(model_type, changes)
    model = resolve(config)
    with torch.device("meta"):
        real = zoo.empty(config)
    expected = {name: tuple(parameter.shape) for name, parameter in real.named_parameters()}
    assert {name: model.shape(name) for name in model.parameters} == expected
    assert model.num_parameters == real.num_parameters()
    for name in real.state_dict().keys() - expected.keys():  # tied twins and buffers are known by name
        tied = any(name == twin.replace("{L}", "0") for twin in _tied(model))
        assert tied or any(
            re.fullmatch(pattern.replace("*", ".*"), name) for pattern in model.spec.ignored
        ), name


def _tied(model: Model) -> list[str]:
    return [name for name, parameter in model.spec.parameters.items() if parameter.tied_to is not None]


@pytest.mark.parametrize("model_type", TYPES)
def test_growable_fields_are_config_fields(model_type: str) -> None:
    config = full(model_type, {})
    spec = load_architecture(model_type)
    others = {one.strip() for axis in spec.axes.values() if "|" in axis.size for one in axis.size.split("|")}
    for name in (*growable(spec), *spec.pin, *spec.aliases.values()):
        assert name in config or name in spec.pin or name in others, name
    for axis in spec.axes.values():
        assert size_of(axis.size, config) > 0
        for other in (axis.of, axis.with_, axis.like):
            assert other is None or other in spec.axes
        if axis.eps is not None:
            assert isinstance(config[axis.eps], float)


def test_head_dim_and_kv_heads_may_be_derived() -> None:
    config = full("llama", {})
    for name in ("head_dim", "num_key_value_heads"):
        config[name] = None
    model = resolve({**config, "hidden_size": 48})
    assert model.sizes["query_dim"] == 12
    assert model.sizes["kv_heads"] == 4
    assert model.sizes["group"] == 1


def test_heads_that_keep_their_size_say_which_sizes_go_together() -> None:
    small = resolve(zoo.config("gpt_neox"))
    assert target(small, {"hidden_size": 40, "num_attention_heads": 5}).sizes["query_dim"] == 8
    with pytest.raises(GrowthError, match=r"choose sizes with hidden_size // num_attention_heads = 8"):
        target(small, {"hidden_size": 48})


# ---- mistakes in a file ---------------------------------------------------------------------------------------------


def test_unknown_model_type_says_how_to_add_it() -> None:
    with pytest.raises(ArchitectureError, match="did you mean llama") as error:
        load_architecture("lama")
    for words in (
        "write lama.yaml",
        "docs/howto/add-an-architecture.md",
        "outgrow architectures check lama.yaml",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"layer": {}},
        {"axes": {"embed": {"size": "n", "through": "streams"}}},
        {"layers": {"count": "n", "norm": "pre"}},
    ],
)
def test_unknown_keys_in_a_file_are_errors(change: dict[str, Any]) -> None:
    with pytest.raises(ArchitectureError, match=r"architecture file llama\.yaml"):
        described("llama", {**merged("llama"), **change})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"parameters": {"w": {"axes": "mpl <- normed"}}}, "names 'mpl'.*did you mean mlp"),
        ({"parameters": {"w": {"axes": "mlp", "inside": "dense"}}}, "inside 'dense'"),
        ({"parameters": {"w": {"axes": "mlp", "times": "hidden_size ** 0.5"}}}, "no factor of a tensor"),
        ({"parameters": {"w": {"axes": "(mlp <- normed"}}}, "open parenthesis"),
        ({"axes": {"embed": {"size": "n", "through": "norm", "of": "stream"}}}, "names 'stream'"),
    ],
)
def test_mistakes_in_a_file_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ArchitectureError, match=says):
        described("llama", {**merged("llama"), **change})


def test_an_unknown_key_in_a_parameter_is_an_error() -> None:
    text = "model_type: x\nclass: X\naxes: {}\nlayers: {count: n, norm: pre, branch_outputs: []}\nparameters: {w: {axis: a}}"
    with pytest.raises(ValidationError, match="axis"):
        ArchitectureSpec.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_attention_heads": 5, "head_dim": None}, "not a whole number"),
        ({"hidden_size": "24"}, "not a size"),
        ({"hidden_size": None}, "gives no value"),
        ({"hidden_size": True}, "not a size"),
    ],
)
def test_configs_that_describe_no_model(change: dict[str, Any], says: str) -> None:
    config = {**full("llama", {"num_key_value_heads": 1}), **change}
    with pytest.raises(ArchitectureError, match=says):
        resolve(config)


def test_a_config_that_the_file_does_not_describe() -> None:
    with pytest.raises(ArchitectureError, match="add_cross_attention"):
        resolve({**full("gpt2", {}), "add_cross_attention": True})


# ---- an independent table -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not NOTES.exists(), reason="the notes are not part of the repository")
@pytest.mark.parametrize("model_type", [one for one in TYPES if one != "eurobert"])  # not in the notes
def test_agrees_with_the_notes(model_type: str) -> None:
    table = json.loads(NOTES.read_text())[model_type]
    mine = load_architecture(model_type)
    refused = [
        f"in {field}" for field in mine.requires
    ]  # what only a config has that the file does not describe
    theirs = {
        name: entry
        for name, entry in table.items()
        if name != "__model__"
        and not entry.get("buffer")
        and not any(entry.get("optional", "").endswith(one) for one in refused)
    }
    assert table["__model__"]["class"] in {mine.class_, *(one.of_class for one in mine.parameters.values())}
    assert set(mine.parameters) >= {name for name in theirs if not name.startswith("bert.pooler")} - set(
        mine.ignored
    )
    model = resolve(full(model_type, {}))
    for name, entry in theirs.items():
        if name in mine.parameters and name.replace("{L}", "0") in model.parameters:
            signature = model.parameters[name.replace("{L}", "0")].signature
            assert len(signature.dims) == len(entry["axes"]), name
            if "matrix" in signature.text or len(signature.dims) == 2:
                reads = [place for place, dim in enumerate(signature.dims) if dim.role == "reads"]
                lookup = "vocab" in signature.axes("reads") or model.parameters[name.replace("{L}", "0")].tied
                positions = signature.axes("reads") & {"positions", "types"}
                if not lookup and not positions:
                    assert reads == entry["fan_in"], name


# ---- symmetry: the strongest proof that a signature is right ----------------------------------------------------------


def permutations(model: Model, generator: torch.Generator) -> dict[str, Tensor]:
    """A random order of the units of every axis that has no order of its own."""
    orders = {
        name: torch.randperm(size, generator=generator)
        if spec.can_grow and not spec.is_table
        else torch.arange(size)
        for name, (spec, size) in ((name, (model.axes[name], model.sizes[name])) for name in model.sizes)
    }
    stream = next(name for name, spec in model.axes.items() if spec.through == "stream")
    for name, spec in model.axes.items():
        if spec.through == "norm" and spec.of == stream:
            orders[name] = orders[stream]
        if spec.through in ("dot", "raw"):
            # Query and key turn in pairs (i, i + d/2) at a frequency of their own: rotary dimensions keep their places.
            rotary = spec.rotary or spec.through == "raw"
            other = orders.get(str(spec.with_))
            orders[name] = torch.arange(model.sizes[name]) if rotary or other is None else other
    for name, spec in model.axes.items():
        if spec.through == "dot" and spec.with_ is not None and not spec.rotary:
            first = min((name, spec.with_), key=list(model.axes).index)
            orders[name] = orders[first] = orders[first]
    for name, spec in model.axes.items():
        if spec.like is not None and model.tied_axes():
            orders[name] = orders[spec.like]  # a tied head reads what the embedding writes
        if spec.through == "norm" and spec.of != stream:
            orders[name] = orders[str(spec.of)]
    routed = [name for name, spec in model.axes.items() if spec.through == "router"]
    for name in routed:  # an expert is found by its number: the router's rows and the experts move together
        orders[name] = (
            torch.randperm(model.sizes[name], generator=generator) if name == routed[0] else orders[routed[0]]
        )
    if "positions" in orders:
        orders["positions"] = torch.arange(model.sizes["positions"])
    return orders


def order(dim: Dim, sizes: Mapping[str, int], orders: Mapping[str, Tensor]) -> Tensor:
    """The order of a dimension: products row-major, sums one after the other."""
    parts, offset = [], 0
    for block in dim.blocks:
        index = torch.zeros(1, dtype=torch.int64)
        for atom in block:
            own = torch.arange(atom) if isinstance(atom, int) else orders[atom]
            index = (index[:, None] * len(own) + own[None, :]).flatten()
        parts.append(index + offset)
        offset += len(index)
    return torch.cat(parts)


def permuted(name: str, signatures: Model, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits before and after all units are put in a random order, as the signatures say."""
    model = zoo.build(zoo.config(name))
    with torch.no_grad():
        before = zoo.logits(model, zoo.batch())
        orders = permutations(signatures, generator)
        for tensor, parameter in model.named_parameters():
            value = parameter.clone()
            for place, dim in enumerate(signatures.parameters[tensor].signature.dims):
                value = value.index_select(place, order(dim, signatures.sizes, orders))
            parameter.copy_(value)
        return before, zoo.logits(model, zoo.batch())


@pytest.mark.parametrize("change", [{"mlp_only_layers": [1]}, {"decoder_sparse_step": 2}])
def test_layers_of_two_kinds_are_not_described(change: dict[str, Any]) -> None:
    with pytest.raises(ArchitectureError, match=next(iter(change))):
        resolve(full("qwen3_moe", change))


@pytest.mark.parametrize("name", zoo.CONFIGS)
def test_units_have_no_order(name: str) -> None:
    before, after = permuted(name, resolve(zoo.config(name)), torch.Generator().manual_seed(0))
    # A sum in another order rounds differently: by 1e-16, or by 1e-7 where norms are computed in float32.
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4 if zoo.family(name) == "llama" else 1e-10)


@pytest.mark.parametrize(
    ("name", "tensor", "wrong"),
    [
        ("gpt2", "transformer.h.0.attn.c_attn.weight", "normed -> (3 query_dim heads)"),
        ("llama", "model.layers.1.self_attn.o_proj.weight", "embed <- (group kv_heads value_dim)"),
        ("llama", "model.layers.1.self_attn.q_proj.weight", "(group kv_heads query_dim) <- normed"),
        ("bert", "bert.encoder.layer.0.output.dense.weight", "embed <- (40)"),
        ("qwen3", "model.layers.0.mlp.down_proj.weight", "(24) <- mlp"),
        ("mixtral", "model.layers.0.mlp.experts.gate_up_proj", "experts (mlp 2) <- normed"),
        ("mixtral", "model.layers.1.mlp.experts.down_proj", "5 embed <- mlp"),
        ("vit", "vit.layers.1.attention.o_proj.weight", "embed <- (value_dim heads)"),
        ("deit", "deit.embeddings.distillation_token", "1 1 (24)"),
    ],
)
def test_a_wrong_signature_breaks_the_symmetry(name: str, tensor: str, wrong: str) -> None:
    from dataclasses import replace

    from outgrow.algebra.axes import parse

    right = resolve(zoo.config(name))
    parameters = {**right.parameters, tensor: replace(right.parameters[tensor], signature=parse(wrong))}
    before, after = permuted(name, replace(right, parameters=parameters), torch.Generator().manual_seed(0))
    assert float((after - before).abs().max()) > 1e-2
