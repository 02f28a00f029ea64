"""Every depth operator on real models: what it promises is measured, and what it cannot do is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import outgrow
from battery import growing, zoo
from outgrow.errors import GrowthError, OutgrowError
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.methods.build import DEPTH, build
from outgrow.models.architecture import load_architecture, resolve
from outgrow.proof import guard, tiny_model

KEEPS = (
    "identity",
    "staged",
    "staged:order=append",
    "staged:zero=norms",
    "llama_pro",
    "lemon",
    "lemon:outputs=zero",
    "random:outputs=zero",
    "random:outputs=zero,order=alternate",
)
CHANGES = (
    "staged:mode=copy",
    "gstack",
    "gstack:noise_share=0.2",
    "midas",
    "lidas",
    "solar",
    "mslt",
    "repeat",
    "random",
)


@cache
def small(name: str) -> tuple[nn.Module, float, dict[str, Tensor]]:
    model = zoo.norms_in_float64(zoo.build(zoo.config(name)))
    return model, *zoo.loss_and_gradients(model, zoo.batch())


def again(config: Mapping[str, Any], layers: int, depth: str) -> GrowthPlan:
    """The plan of a growth of any config."""
    return plan(build(resolve(config), {"num_hidden_layers": layers}, depth=depth))


def test_every_operator_has_a_row() -> None:
    named = {depth.split(":")[0] for depth in (*KEEPS, *CHANGES)} | {"stack", "interleave"}
    assert named == set(DEPTH)


@pytest.mark.parametrize("depth", KEEPS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_function_and_gradient_law_are_kept(name: str, depth: str) -> None:
    if name == "bert" and depth == "staged:zero=norms":
        with pytest.raises(GrowthError, match="wipe the stream"):
            growing.planned(name, {"num_hidden_layers": 6}, depth=depth)
        return
    made = growing.planned(name, growing.shape(name, "double"), depth=depth)  # width and depth at once
    assert made.keeps_function
    assert made.keeps_gradient_law
    model, before, gradients = small(name)
    large = zoo.norms_in_float64(growing.grown(made, model))
    after, grown = zoo.loss_and_gradients(large, zoo.batch())
    assert abs(after - before) <= 1e-9 * before
    assert max(growing.law_errors(made, gradients, grown, floor=1e-6).values()) <= 1e-9


@pytest.mark.parametrize("depth", CHANGES)
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_what_changes_the_function_says_so(name: str, depth: str) -> None:
    made = growing.planned(name, growing.shape(name, "double"), depth=depth)
    model, before, _ = small(name)
    with torch.no_grad():
        after = zoo.loss(zoo.norms_in_float64(growing.grown(made, model)), zoo.batch()).item()
    assert not made.keeps_function
    assert (
        abs(after - before) > 1e-6 * before
    )  # random outputs of 0.02 hardly speak; repeated layers change it by 1e-2
    assert all(finding.why for finding in made.compensation.findings if not finding.function)


@pytest.mark.parametrize(
    ("name", "depth", "dead"),
    [
        ("llama", "staged:zero=norms", True),  # both factors of a gated MLP's gradient are zero
        ("gpt2", "staged:zero=norms", False),  # gelu'(0) = 1/2
        ("llama", "identity", False),
        ("llama", "lemon", False),
    ],
)
def test_zero_norms_kill_a_gated_mlp(name: str, depth: str, dead: bool) -> None:
    """LLaMA-Pro's objection to the paper's identity, measured: 20 SGD steps never reach the MLP of a new layer."""
    model, _, _ = small(name)
    large = growing.grown(growing.planned(name, {"num_hidden_layers": 6}, depth=depth), model).float()
    new = {
        tensor: one for tensor, one in large.named_parameters() if ".1.mlp" in tensor or ".1.post_" in tensor
    }
    assert new
    start = {tensor: one.detach().clone() for tensor, one in new.items()}
    optimizer = torch.optim.SGD(large.parameters(), lr=0.05)
    for step in range(20):
        optimizer.zero_grad()
        zoo.loss(large, zoo.batch(seed=step)).backward()
        optimizer.step()
    moved = max(float((one.detach() - start[tensor]).abs().max()) for tensor, one in new.items())
    assert (moved == 0) if dead else (moved > 1e-4)


def test_pairs_give_every_new_matrix_a_gradient_at_once() -> None:
    model, _, _ = small("llama")
    for depth, silent in (("lemon", False), ("identity", True)):
        large = growing.grown(growing.planned("llama", {"num_hidden_layers": 6}, depth=depth), model)
        _, gradients = zoo.loss_and_gradients(large, zoo.batch())
        for name in ("mlp.up_proj", "mlp.gate_proj", "self_attn.v_proj"):
            assert bool(gradients[f"model.layers.1.{name}.weight"].any()) != silent


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "mixtral"])
def test_a_model_without_layers_grows_and_loads(name: str, tmp_path: Path) -> None:
    """Zero-layer start: embeddings and head alone, then fresh layers; the grown folder is an ordinary checkpoint."""
    import transformers

    count = load_architecture(zoo.config(name)["model_type"]).layers.count
    full = {**zoo.config(name), count: 0}
    full.pop("layer_types", None)
    model = zoo.build(full, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    zoo.loss(model, zoo.batch()).backward()
    optimizer.step()
    state = outgrow.TrainingState.from_model(model, optimizer)
    with pytest.raises(GrowthError, match="use random"):
        outgrow.grow(state, to={count: 2})
    grown = outgrow.grow(state, to={count: 2}, depth="random", noise=0.0)
    grown.save_pretrained(f"{tmp_path}/grown")
    large = transformers.AutoModelForCausalLM.from_pretrained(f"{tmp_path}/grown")
    assert large.config.num_hidden_layers == 2
    silent = outgrow.grow(state, to={count: 2}, depth="random:outputs=zero")
    silent.save_pretrained(f"{tmp_path}/silent")
    same = transformers.AutoModelForCausalLM.from_pretrained(f"{tmp_path}/silent")
    with torch.no_grad():
        assert zoo.loss(large.eval(), zoo.batch()) != zoo.loss(model.eval(), zoo.batch())
        torch.testing.assert_close(zoo.loss(same.eval(), zoo.batch()), zoo.loss(model, zoo.batch()))


def test_a_one_layer_model_is_copied_or_joined_by_fresh_layers() -> None:
    for depth in ("stack", "repeat", "random", "lemon", "llama_pro"):
        full = {**zoo.config("llama"), "num_hidden_layers": 1}
        model = zoo.build(full)
        made = again(full, 4, depth)
        large = zoo.build(dict(made.config), seed=5)
        growing.load(large, growing.view(made, weight=growing.weights(model)))
        with torch.no_grad():
            same = abs(zoo.loss(large, zoo.batch()) - zoo.loss(model, zoo.batch())) < 1e-6
        assert bool(same) == made.keeps_function


@pytest.mark.parametrize(
    ("depth", "layers", "says"),
    [
        ("gstack", 5, "choose 3 or 6 layers, or use stack"),
        ("gstack:noise_share=2", 6, "0 to 1"),
        ("gstack:noise_share=much", 6, "expected: float"),
        ("midas:block=2", 6, "use block=3, or lidas"),
        ("midas:block=7", 6, "1 to 3 layers"),
        ("lidas:block=2", 6, "use block=3"),
        ("solar", 7, "at most 6 layers, or use stack"),
        ("solar:overlap=2", 5, "0 to 1 layers"),
        ("llama_pro:every=2", 5, "use every=3, every=0 .spread., or identity"),
        ("llama_pro:every=-1", 5, "use every=3, every=0 .spread., or identity"),
        ("mslt", 7, "at most 6 layers"),
        ("repeat:end=top", 7, "repeat:end=last"),
        ("repeat:end=middle", 5, "last or first or top or bottom"),
        ("staged:mode=identiti", 6, "identity or copy"),
        ("staged:order", 6, "has no option 'order'"),
        ("lemon:outputs=none", 6, "paired or zero"),
        ("solar:every=2", 6, "has no option"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(depth: str, layers: int, says: str) -> None:
    with pytest.raises(OutgrowError, match=says):
        growing.planned("llama", {"num_hidden_layers": layers}, depth=depth)


def test_growths_that_draw_or_pair_cannot_be_joined() -> None:
    for first, second in (("random", "stack"), ("lemon", "stack"), ("staged:zero=norms", "identity")):
        one = growing.planned("llama", {"num_hidden_layers": 6}, depth=first)
        then = again(one.config, 12, second)
        with pytest.raises(GrowthError, match="cannot be joined"):
            one.growth.then(then.growth)


def test_norms_that_are_zero_stay_zero_through_a_second_growth() -> None:
    one = growing.planned("gpt2", {"num_hidden_layers": 4}, depth="staged:zero=norms")
    then = again(one.config, 5, "staged:zero=norms")
    joined = one.growth.then(then.growth)
    assert joined.layers.silenced == "norms"
    assert joined.layers.large == 5


@pytest.mark.parametrize("depth", ["lemon", "llama_pro", "identity"])
def test_silent_layers_of_experts_with_biases_are_silent(depth: str) -> None:
    """A bias of experts has a row for each: gpt-oss kept its own in layers that were to output zero."""
    config = tiny_model.example(load_architecture("gpt_oss"))
    found = guard.grown(config, {"num_hidden_layers": 6}, "pad", depth)
    assert found.promises_function
    assert found.holds, found
