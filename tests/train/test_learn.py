"""The fit of a learned operator: where it begins, that it goes down, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from battery import growing, zoo
from outgrow.cost.flops import model_cost
from outgrow.data.objectives import IGNORED
from outgrow.growth.plan import plan
from outgrow.growth.target import target
from outgrow.learning.fit import fit
from outgrow.learning.learn import begin
from outgrow.methods.build import build
from outgrow.methods.learned.ligo import Ligo, initial
from outgrow.methods.learned.ligo_start import exact_start
from outgrow.models.architecture import resolve
from outgrow.run.learn_options import LearnOptions

# Every architecture family, tied and untied, at widths that its norm allows; the last begins with fresh heads and units.
EXACT = [
    ("gpt2", "double", "isometric"),
    ("gpt2-untied", "odd", "pad"),
    ("llama", "odd", "isometric"),
    ("llama-tied-bias", "kv", "isometric"),
    ("bert", "double", "isometric"),
    ("bert-untied", "double", "duplicate"),
    ("qwen3-tied", "head_dim", "isometric"),
    ("llama", "group odd", "pad"),
    ("mixtral", "odd", "isometric"),
]


def tiny(name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Config, float64 weights and a batch of a zoo model; of a masked one every fourth place is to be found."""
    config = zoo.config(name)
    config["architectures"] = [resolve(config).spec.class_]
    tokens = zoo.batch()
    weights = growing.weights(zoo.build(config, embedding=0.3))
    places = torch.arange(tokens.shape[1])
    counts = places % 4 == 0 if resolve(config).spec.objective == "masked" else places >= 0
    return config, weights, {"input_ids": tokens, "labels": torch.where(counts, tokens, IGNORED)}


@pytest.mark.parametrize(("name", "which", "width"), EXACT)
def test_the_exact_start_is_the_small_model(name: str, which: str, width: str) -> None:
    small = zoo.resolved(name)
    model = zoo.norms_in_float64(zoo.build(zoo.config(name)))
    base = build(small, growing.shape(name, which), width=width, depth="identity")
    form, values = exact_start(base, dtype=torch.float64)
    large = zoo.norms_in_float64(growing.grown(plan(form.growth(values), "reset"), model))
    loss = float(zoo.loss(model, zoo.batch()).detach())
    # 1e-9: BERT's inserted norms are the identity to eps (1e-12 of a variance near 1), all else is float64 rounding.
    assert abs(float(zoo.loss(large, zoo.batch()).detach()) - loss) < 1e-9 * loss


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_copies_of_an_exact_start_are_told_apart(name: str) -> None:
    """Readers share unevenly: else every copy would have its original's gradient for ever."""
    base = build(zoo.resolved(name), growing.shape(name, "double"), width="duplicate", depth="identity")
    _, values = exact_start(base)
    read = values["map.mlp.read"]
    old = read.shape[1]
    assert float((read[:old] - read[old:]).abs().amax(1).min()) > 1e-4


@pytest.mark.parametrize(
    ("name", "start"),
    [("gpt2", "exact"), ("bert-untied", "exact"), ("llama-tied-bias", "published"), ("qwen3", "mango")],
)
def test_a_fit_goes_down_and_the_recipe_path_agrees(name: str, start: str) -> None:
    config, weights, batch = tiny(name)
    options = LearnOptions(
        method="mango" if start == "mango" else "ligo", start="published" if start == "mango" else start
    )
    form, values, _ = begin(resolve(config), growing.shape(name, "double"), options)
    values = {key: value.double() for key, value in values.items()}
    found = fit(
        form, values, weights, config, lambda step: batch, [batch], LearnOptions(steps=20, learning_rate=2e-3)
    )
    assert all(later < before for before, later in zip(found.losses, found.losses[1:], strict=False))
    assert found.loss_end < found.loss_start - 0.2
    if start == "exact":
        assert found.loss_start == pytest.approx(
            found.loss_small, rel=1e-6
        )  # transformers' losses are float32
    large = growing.grown(plan(form.growth(found.values), "reset"), zoo.build(config, embedding=0.3))
    with torch.no_grad():
        assert float(large(**batch).loss) == pytest.approx(found.loss_end, rel=1e-6)


def test_a_tied_table_is_grown_once() -> None:
    """The released LiGO exports the embedding, then overwrites it with the head (notes 2.8, item 2)."""
    for name in ("gpt2", "bert", "llama-tied-bias"):
        small = zoo.resolved(name)
        form = Ligo(small, target(small, growing.shape(name, "double")))
        assert "map.embed" in form.shapes()
        assert not {"map.final", "map.transform"} & set(form.shapes())


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_the_fit_counts_its_flops(name: str) -> None:
    """Three forward passes a step, evaluations, and the making of the weights; a head where a label counts."""
    config, weights, batch = tiny(name)
    form = Ligo(resolve(config), target(resolve(config), {"num_hidden_layers": 4}))
    values = initial(form, dtype=torch.float64)
    short, long = (
        fit(form, values, weights, config, lambda step: batch, [batch], LearnOptions(steps=steps)).flops
        for steps in (1, 3)
    )
    per_step = (long - short) / 2
    rows, columns = batch["input_ids"].shape
    asked = int((batch["labels"][0] != IGNORED).sum())
    plain = model_cost(form.large.config).training(columns, asked=asked) * rows * columns
    assert 1.0 < per_step / plain < 1.5
    everywhere = {**batch, "labels": batch["input_ids"]}
    more = fit(
        form, values, weights, config, lambda step: everywhere, [everywhere], LearnOptions(steps=1)
    ).flops
    assert (more > 1.05 * short) == (name == "bert")
