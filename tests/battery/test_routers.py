"""Every router that an architecture file describes: what is promised of growing experts is what transformers computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from outgrow.errors import ArchitectureError, GrowthError
from outgrow.growth.experts import Routing
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.methods.build import build
from outgrow.models.architecture import known, load_architecture, resolve
from outgrow.models.library import model_tensors
from outgrow.proof.guard import FUNCTION, float64_casts
from outgrow.proof.tiny_model import example, inputs, tiny
from outgrow.state.grown_view import GrownView
from outgrow.store.source import MemorySource

ROUTED = [name for name in known() if load_architecture(name).routers]
NOT_DIVIDED = 1e-5
"""lfm2_moe adds 1e-6 to the sum of the scores that it divides by."""


FLAT = {
    "flex_olmo",
    "gpt_oss",
    "granitemoe",
    "granitemoehybrid",
    "granitemoeshared",
    "hunyuan_v1_moe",
    "mellum",
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_5_moe_text",
    "qwen3_moe",
    "qwen3_next",
    "deepseek_v2",
}
"""Softmax routers without a selection bias."""
NO_GROUPS = (FLAT - {"deepseek_v2"}) | {"afmoe", "lfm2_moe", "minimax_m2"}
BEST_TWO = {"deepseek_v3", "glm4_moe_lite"}
"""Examples with several groups, which are chosen by the sum of their best two scores."""
REFUSED = {
    ("hunyuan_v1_moe", "split"),  # its shared MLP is as wide as an expert by the same field
    *((kind, "hidden") for kind in FLAT | BEST_TWO),
    *((kind, "groups") for kind in NO_GROUPS | {"deepseek_v2"}),  # deepseek_v2's example chooses greedily
    *((kind, experts) for kind in BEST_TWO for experts in ("copy", "split")),
    *(
        (kind, experts)
        for kind in ("llama4_text", "ernie4_5_moe")  # one multiplies inputs, one adds a bias to a softmax
        for experts in ("copy", "split", "groups", "hidden")
    ),
}
"""The routers and growths that keep nothing."""


def sizes(config: dict[str, Any], experts: int, active: int) -> dict[str, int]:
    """The fields of a router's experts and of those at work, times so much."""
    model = resolve(config)
    (router, *_) = model.spec.routers.values()
    now = Routing.of(router, model)
    field = next(
        one.strip() for one in model.spec.axes[router.experts].size.split("|") if config.get(one.strip())
    )
    return {field: now.experts * experts, router.active: now.active * active}


def gap(made: GrowthPlan, small: torch.nn.Module) -> float:
    """max |Δlogits| / max |logits| in exact arithmetic."""
    large = tiny(made.config, seed=7)
    old = {name: one.detach() for name, one in model_tensors(small).items() if name in made.small.parameters}
    view, tensors = GrownView(made, MemorySource({"weight": old})), model_tensors(large)
    with torch.no_grad(), float64_casts():
        for name in made.large.parameters:
            tensors[name].copy_(view.read(name, "weight"))
        before, after = (model(**inputs(small)).logits for model in (small, large))
    return float((before - after).abs().max() / before.abs().max())


def asked(config: dict[str, Any], experts: str) -> dict[str, int]:
    """Twice as many experts: copies at work with top-k twice as large, or in groups and hidden with top-k kept."""
    pieces = 2 if experts.startswith("split") else 1
    active = 1 if experts.startswith(("groups", "hidden")) else 2
    return sizes(config, 2, active if pieces == 1 else 2)


@pytest.mark.parametrize("experts", ["copy", "split:pieces=2", "groups:row_noise=0", "hidden"])
@pytest.mark.parametrize("kind", ROUTED)
def test_a_promise_is_what_is_measured(kind: str, experts: str) -> None:
    config = even(example(load_architecture(kind)))
    small = tiny(config)
    if (kind, experts.partition(":")[0]) in REFUSED:
        with pytest.raises(GrowthError, match="to do"):
            build(resolve(config), asked(config, experts), experts=experts)
        return
    made = plan(build(resolve(config), asked(config, experts), experts=experts))
    assert made.keeps_function
    assert gap(made, small) < (NOT_DIVIDED if kind == "lfm2_moe" else FUNCTION)


def even(config: dict[str, Any]) -> dict[str, Any]:
    """The same model with an even number of units inside an expert."""
    from outgrow.growth.experts import inner_axis
    from outgrow.models.expressions import fields

    model = resolve(config)
    (router, *_) = model.spec.routers.values()
    (field,) = fields(model.axes[inner_axis(model, router)].size)
    return {**config, field: 12}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("mixtral", {"num_experts_per_tok": 6}, "a token cannot choose 6 of 5 experts"),
        ("deepseek_v3", {"n_group": 4}, "6 experts do not make 4 equal groups"),
        ("deepseek_v3", {"n_group": 6}, "6 experts do not make 6 equal groups of at least 2"),
        ("deepseek_v3", {"topk_group": 3}, "of which a token chooses from 3"),
    ],
)
def test_a_router_that_cannot_choose_is_refused(kind: str, change: dict[str, int], message: str) -> None:
    """transformers builds such a model, and its first batch ends in an error."""
    with pytest.raises(ArchitectureError, match=message):
        resolve(example(load_architecture(kind)) | change)


def test_a_token_chooses_inside_its_groups() -> None:
    small = resolve(example(load_architecture("deepseek_v3")))
    to = {"n_routed_experts": 12, "n_group": 4, "num_experts_per_tok": 6}
    with pytest.raises(GrowthError, match="cannot choose 6 of the 3 experts in 1 of 4 groups"):
        build(small, to, experts="drop")


def test_experts_grow_beside_layers_of_several_kinds() -> None:
    """Which layers are sparse follows the depth operator, for the experts' tensors too."""
    small = resolve(example(load_architecture("mellum")))
    to = {"num_hidden_layers": 5, "num_experts": 10, "num_experts_per_tok": 4}
    made = plan(build(small, to, depth="solar", width="aki", experts="copy"))
    assert made.config["mlp_layer_types"].count("sparse") == sum(
        name.endswith("mlp.experts.down_proj") for name in made.large.parameters
    )
