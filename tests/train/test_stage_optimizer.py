"""Stages with a precision and optimizer numbers of their own: what is trained with, exact resume, and mistakes told first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import outgrow.training.loop as loop
from outgrow.errors import ConfigError
from outgrow.run.run_file import parse_run
from outgrow.training import dry_run, scratch, train_run
from train.test_loop import bits, rows_without_times
from train.test_stage_data import LARGE

Tiny = Callable[..., dict[str, Any]]
SAID = {"betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.0, "gradient_clip": None}


def staged(tiny: Tiny, **replace: Any) -> dict[str, Any]:
    """Three stages: half precision, then grown with numbers of its own, then the run's own again without a growth."""
    stages = [
        {"name": "half", "tokens": 64 * 2, "precision": "bf16"},
        {"name": "own", "tokens": 64 * 2, "grow": LARGE, "optimizer": SAID},
        {"name": "usual", "tokens": 64 * 2},
    ]
    return tiny(stages=stages) | replace


def watched(
    monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None
) -> list[tuple[bool, Any, list[dict[str, Any]]]]:
    """Of every step from now on: whether in bf16, the clip, and the optimizer's groups without their tensors."""
    seen: list[tuple[bool, Any, list[dict[str, Any]]]] = []
    real = loop.optimizer_step

    def step(model: Any, optimizer: Any, batch: Any, **others: Any) -> Any:
        if len(seen) == fail_at:
            raise KeyboardInterrupt
        groups = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            for group in optimizer.param_groups
        ]
        seen.append((others["device"].bf16, others["clip"], groups))
        return real(model, optimizer, batch, **others)

    monkeypatch.setattr(loop, "optimizer_step", step)
    return seen


def test_every_step_has_the_numbers_of_its_stage(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watched(monkeypatch)
    result = train_run(parse_run(staged(tiny)), progress=False)
    assert [one[0] for one in seen] == [True] * 2 + [False] * 4
    assert [one[1] for one in seen] == [1.0] * 2 + [None] * 2 + [1.0] * 2
    for place, (_, _, groups) in enumerate(seen):
        own = 2 <= place < 4
        assert {(group["betas"], group["eps"]) for group in groups} == {
            ((0.8, 0.9), 1e-6) if own else ((0.9, 0.95), 1e-8)
        }
        assert max(group["weight_decay"] for group in groups) == (0.0 if own else 0.1)
    note = str(result.table().note)
    assert "half bf16, own float32, usual float32" in note
    assert "own weight_decay 0.0, gradient_clip None, betas [0.8, 0.9], eps 1e-06" in note
    steps = rows_without_times(tmp_path / "run")
    assert [row["precision"] for row in steps if row["kind"] == "stage"] == ["bf16", "float32", "float32"]


def test_numbers_that_a_stage_repeats_change_no_bit(tiny: Tiny, tmp_path: Path) -> None:
    """A second stage that is loaded anew goes on in the same bits: moments, steps and groups are all there."""
    # On a processor float32 is what `auto` is: another word, so the model is loaded anew, and the same arithmetic.
    several: dict[str, dict[str, Any]] = {
        "plain": {},
        "again": {"precision": "float32"},
        "other": {"optimizer": {"weight_decay": 0.2}},
    }
    for name, own in several.items():
        stages = [{"name": "first", "tokens": 64 * 3}, {"name": "second", "tokens": 64 * 3, **own}]
        train_run(parse_run(tiny(stages=stages, output=str(tmp_path / name))), progress=False)
    assert bits(tmp_path / "again" / "final") == bits(tmp_path / "plain" / "final")
    assert bits(tmp_path / "other" / "final") != bits(tmp_path / "plain" / "final")


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_a_killed_run_has_the_same_bits(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    numbers = {
        "adamw": SAID,
        "muon": {"momentum": 0.8, "nesterov": False, "eps": 1e-6},
        "sgd": {"momentum": 0.5, "nesterov": True},
    }[optimizer]
    stages = staged(tiny)["stages"]
    stages[1]["optimizer"] = numbers
    own = {"stages": stages, "optimizer": {"name": optimizer, "learning_rate": 1e-2}}
    train_run(parse_run(staged(tiny, **own, output=str(tmp_path / "whole"))), progress=False)
    run = parse_run(staged(tiny, **own, output=str(tmp_path / "killed")))
    for steps in (
        1,
        3,
        2,
    ):  # inside the first stage, inside the second, before the last, which loads and does not grow
        with monkeypatch.context() as patch:
            watched(patch, fail_at=steps)
            with pytest.raises(KeyboardInterrupt):
                train_run(run, progress=False)
    train_run(run, progress=False)
    assert bits(tmp_path / "killed" / "final") == bits(tmp_path / "whole" / "final")
    assert rows_without_times(tmp_path / "killed") == rows_without_times(tmp_path / "whole")


def test_a_run_is_written_as_it_was_said(tiny: Tiny) -> None:
    """`gradient_clip: null` is a number of the stage, and what is not said is none."""
    run = parse_run(staged(tiny))
    again = parse_run(run.resolved())
    assert again == run
    assert again.at(1).optimizer.gradient_clip is None
    assert again.at(2).optimizer == run.optimizer
    assert run.resolved()["stages"][1]["optimizer"] == SAID


def test_memory_and_the_twin_have_the_stages_own(tiny: Tiny, tmp_path: Path) -> None:
    deep = {**tiny()["model"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4}
    plain = [{key: value for key, value in one.items() if key != "grow"} for one in staged(tiny)["stages"]]
    own = dry_run(parse_run(staged(tiny, model=deep, stages=plain))).stages
    alike = [{key: value for key, value in one.items() if key != "precision"} for one in plain]
    half, whole = (
        dry_run(parse_run(staged(tiny, model=deep, stages=alike, precision=precision))).stages
        for precision in ("bf16", "float32")
    )
    assert half[0].memory_bytes != whole[0].memory_bytes
    assert [one.memory_bytes for one in own] == [
        half[0].memory_bytes,
        *(one.memory_bytes for one in whole[1:]),
    ]
    stages = staged(tiny)["stages"][:2]
    staged_run = parse_run(staged(tiny, stages=stages))
    twin = scratch.scratch_twin(staged_run, train_run(staged_run, progress=False), str(tmp_path / "twin"))
    assert (twin.at(0).optimizer, twin.at(0).precision) == (staged_run.at(1).optimizer, "auto")


def test_a_probe_tries_with_the_stages_numbers(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    import outgrow.training.choose as choose

    seen: list[tuple[bool, Any, float]] = []
    real = choose.optimizer_step

    def step(model: Any, optimizer: Any, batch: Any, **others: Any) -> Any:
        seen.append((others["device"].bf16, others["clip"], optimizer.param_groups[0]["eps"]))
        return real(model, optimizer, batch, **others)

    monkeypatch.setattr(choose, "optimizer_step", step)
    first, second, _ = staged(tiny)["stages"]
    probe = {"steps": 2, "candidates": [{"depth": "stack"}, {"depth": "identity"}]}
    second |= {"grow": {**LARGE, "probe": probe}, "precision": "bf16"}
    train_run(parse_run(staged(tiny, stages=[first, second])), progress=False)
    assert seen == [(True, None, 1e-6)] * 4


@pytest.mark.parametrize(
    ("optimizer", "own", "message"),
    [
        ({}, {"momentum": 0.9}, r"stages[1].optimizer.momentum: adamw has none; a stage may set betas, eps"),
        ({"name": "lion"}, {"eps": 1e-6}, "stages[1].optimizer.eps: lion has none"),
        ({"name": "sgd"}, {"momentum": 0.0}, "momentum: 0 after 0.9: SGD keeps a state with a momentum"),
        ({"name": "sgd", "momentum": 0.0}, {"momentum": 0.9}, "momentum: 0.9 after 0"),
        (
            {"name": "sgd", "momentum": 0.0},
            {"nesterov": True},
            "stages[1].optimizer.nesterov: it needs a momentum",
        ),
        ({}, {"learning_rate": 1e-3}, "unknown key stages.1.optimizer.learning_rate"),
        ({}, {"name": "muon"}, "unknown key stages.1.optimizer.name"),
        ({}, {"betas": None}, "betas has no value"),
        ({}, {"betas": [0.9, 1.0]}, "less than 1"),
        ({}, {"gradient_clip": 0}, "greater than 0"),
    ],
)
def test_mistakes(tiny: Tiny, optimizer: dict[str, Any], own: dict[str, Any], message: str) -> None:
    stages = [{"name": "first", "tokens": 64}, {"name": "second", "tokens": 64, "optimizer": own}]
    with pytest.raises(ConfigError) as told:
        parse_run(tiny(stages=stages, optimizer={"learning_rate": 1e-2, **optimizer}))
    assert message in str(told.value)


def test_an_unknown_precision(tiny: Tiny) -> None:
    stages = [{"name": "first", "tokens": 64}, {"name": "second", "tokens": 64, "precision": "bf17"}]
    with pytest.raises(ConfigError, match=r"stages\.1\.precision"):
        parse_run(tiny(stages=stages))
