"""Schedules are arithmetic."""

from __future__ import annotations

import math
from typing import Any

import pytest

from outgrow.cost.flops import model_cost
from outgrow.errors import ArchitectureError
from outgrow.files.section import parse_count
from outgrow.run.schedule import WSD, Constant, Cosine, Linear, learning_rate


@pytest.mark.parametrize(
    "schedule", [Constant(warmup_tokens=100), Linear(warmup_tokens=100), WSD(warmup_tokens=100)]
)
def test_warmup_is_linear_in_tokens(schedule: Any) -> None:
    assert [schedule.factor(t, 1000) for t in (0, 25, 50)] == [0.0, 0.25, 0.5]
    assert schedule.factor(100, 1000) == 1.0


def test_shapes_after_the_warmup() -> None:
    assert Linear(warmup_tokens=200, final=0.5).factor(600, 1000) == 0.75
    assert Linear().factor(1000, 1000) == 0.0
    assert Linear().factor(2000, 1000) == 0.0
    assert math.isclose(Cosine(warmup_tokens=200, final=0.0).factor(600, 1000), 0.5)
    assert math.isclose(Cosine(final=0.1).factor(1000, 1000), 0.1)
    assert [WSD(decay_share=0.5).factor(t, 1000) for t in (500, 750, 1000)] == [1.0, 0.5, 0.0]
    assert WSD(decay_share=0.5, decay="sqrt").factor(625, 1000) == 0.5
    assert WSD(decay_share=0.0).factor(1000, 1000) == 1.0


def test_stages_share_one_schedule_and_may_warm_up_again() -> None:
    wsd = WSD(decay_share=0.1)
    assert learning_rate(wsd, 1e-3, 500, 1000, stage_start=500) == 1e-3
    assert learning_rate(wsd, 1e-3, 500, 1000, stage_start=500, rewarm_tokens=100) == 0.0
    assert learning_rate(wsd, 1e-3, 550, 1000, stage_start=500, rewarm_tokens=100) == 5e-4
    assert learning_rate(wsd, 2e-3, 700, 1000, stage_start=500, rewarm_tokens=100) == 2e-3


@pytest.mark.parametrize(
    ("text", "count"),
    [("2M", 2_000_000), ("1.5B", 1_500_000_000), ("1e6", 10**6), (1e6, 10**6), (7, 7), ("3_000", 3000)],
)
def test_counts(text: Any, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["two", "1.5", 0.5, True, float("nan")])
def test_counts_that_are_not_counts(text: Any) -> None:
    with pytest.raises(ValueError, match="expected a"):
        parse_count(text)


def test_unknown_model_type_names_the_known_ones() -> None:
    with pytest.raises(ArchitectureError, match="did you mean llama"):
        model_cost({"model_type": "lama"})
