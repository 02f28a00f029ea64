"""The table of what keeps the function, where an operator gets it wrong: the finding says so, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from battery import growing, zoo
from outgrow.algebra.linear import Select
from outgrow.algebra.maps import AxisMap, copies, copy_index, padding
from outgrow.growth.plan import plan
from outgrow.methods.build import build


def told(name: str, axes: dict[str, AxisMap], to: dict[str, int]) -> dict[str, str]:
    """Axis -> why not, of a growth whose maps are replaced by these."""
    growth = build(zoo.resolved(name), to, depth="identity")
    broken = plan(replace(growth, axes={**growth.axes, **axes}))
    assert not broken.keeps_function
    return {finding.axis: finding.why for finding in broken.compensation.findings if not finding.function}


def test_norms_that_share_eps_but_need_different_ones() -> None:
    """qwen3's query norm keeps its eps; a stream that shrinks in root mean square would need another."""
    stream = copies(copy_index(24, 36), 24, forward_power=0.5)
    assert "rms_norm_eps" in told("qwen3", {"embed": stream}, {"hidden_size": 36})["embed"]


def test_uneven_plain_copies_of_the_stream() -> None:
    assert "c·I" in told("llama", {"embed": copies(copy_index(24, 36), 24)}, {"hidden_size": 36})["embed"]


def test_zeros_under_layer_norm() -> None:
    stream = padding(24, 48, fresh="readers")
    assert "mean" in told("gpt2-untied", {"embed": stream}, {"hidden_size": 48})["embed"]


def test_scaled_units_behind_a_nonlinearity() -> None:
    scaled = copies(copy_index(40, 80), 40, forward_power=0.5)
    assert "elementwise" in told("gpt2", {"mlp": scaled}, {"n_inner": 80})["mlp"]


def test_rotary_pairs_at_other_frequencies() -> None:
    """Appending dimensions, as one would without rotary positions."""
    axes = {"query_dim": padding(8, 16, fresh="writers"), "key_dim": padding(8, 16, fresh="readers")}
    assert "frequency" in told("llama", axes, {"head_dim": 16})["query_dim"]


@pytest.mark.parametrize("which", ["forward", "backward"])
def test_maps_that_are_no_pair(which: str) -> None:
    proper = copies(copy_index(40, 80), 40)
    wrong = Select(copy_index(40, 80), torch.full((80,), 0.75, dtype=torch.float64), 40)
    assert told("llama", {"mlp": replace(proper, **{which: wrong})}, {"intermediate_size": 80})["mlp"]


def test_a_wrong_promise_is_a_wrong_loss() -> None:
    """The findings above are not only words: the loss of such a growth moves."""
    growth = build(zoo.resolved("llama"), {"hidden_size": 36}, depth="identity")
    broken = plan(replace(growth, axes={**growth.axes, "embed": copies(copy_index(24, 36), 24)}))
    model = zoo.build(zoo.config("llama"))
    before, _ = zoo.loss_and_gradients(model, zoo.batch())
    after, _ = zoo.loss_and_gradients(growing.grown(broken, model), zoo.batch())
    assert abs(after - before) / before > 1e-3
