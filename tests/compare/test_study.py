"""A whole study in seconds: shared pieces, resuming, extending, and mistakes that are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from outgrow.errors import ConfigError
from outgrow.report.compare import study_report, study_rows
from outgrow.train.compare import parse_study, run_study
from outgrow.train.compare.pieces import branches
from outgrow.train.compare.runner import _pieces

SMALL = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def study(corpus: Path, output: Path, **replace: Any) -> dict[str, Any]:
    grow = {"to": {"num_hidden_layers": 2}}
    return {
        "output": str(output),
        "title": "tiny",
        "common": {
            "device": "cpu",
            "data": {
                "source": str(corpus),
                "tokenizer": {"vocab_size": 300},
                "sequence_length": 16,
                "validation_share": 0.1,
            },
            "batch": {"sequences": 4},
            "evaluation": {"sequences": 8},
        },
        "arms": {
            "scratch": {"model": {**SMALL, "num_hidden_layers": 2}},
            "stack": {"model": SMALL, "stages": [{"tokens": 256}, {"grow": {**grow, "depth": "stack"}}]},
            "identity": {
                "model": SMALL,
                "stages": [{"tokens": 256}, {"grow": {**grow, "depth": "identity"}}],
            },
        },
        "baseline": "scratch",
        "budgets": [320, 640],
        "seeds": [0, 1],
        "tuning": {"rates": [1e-2], "seed": 0},
        **replace,
    }


def test_a_study_end_to_end(corpus: Path, tmp_path: Path) -> None:
    parsed = parse_study(study(corpus, tmp_path / "study"))
    said: list[str] = []
    result = run_study(parsed, said.append)
    assert len(result.points) == 3 * 2 * 2
    assert result.rates == {"scratch": 1e-2, "stack": 1e-2, "identity": 1e-2}
    by = {(p.arm, p.seed, p.budget): p for p in result.points}
    # The small stage is counted: 256 tokens of the small model before 320 of the grown one.
    assert by["stack", 0, 320].tokens == 256 + 320
    assert by["scratch", 0, 640].tokens == 640
    assert by["stack", 0, 640].flops > by["scratch", 0, 640].flops
    report = study_report(result)
    assert "saving" in report.html.read_text()
    assert report.png.stat().st_size > 10_000
    assert len(study_rows(result)) == 3 * 2
    assert all(one.saving == pytest.approx(0) for one in result.savings()["scratch"])
    again: list[str] = []
    assert run_study(parsed, again.append).points == result.points
    assert not any("pieces to train" in line for line in again)  # nothing is rerun
    saved = json.loads(report.json.read_text())
    assert saved["rates"]["stack"] == 1e-2


def test_arms_that_begin_alike_share_pieces_and_extending_keeps_the_rest(
    corpus: Path, tmp_path: Path
) -> None:
    parsed = parse_study(study(corpus, tmp_path))
    found = {
        arm: _pieces(branches(parsed, arm, 0, 1e-2, parsed.arm_budgets(arm))) for arm in ("stack", "identity")
    }
    keys = {arm: {piece.key for piece in pieces} for arm, pieces in found.items()}
    assert found["stack"][0].key == found["identity"][0].key  # the small stage
    assert len(keys["stack"] & keys["identity"]) == 1
    longer = parse_study(study(corpus, tmp_path, budgets=[320, 640, 960]))
    more = {piece.key for piece in _pieces(branches(longer, "stack", 0, 1e-2, (320, 640, 960)))}
    assert keys["stack"] < more


def test_a_study_that_was_stopped_comes_to_the_same_bits(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import outgrow.train.compare.runner as runner

    content = {"arms": {"scratch": {"model": SMALL}}, "seeds": [0], "budgets": [320, 640]}
    whole = run_study(parse_study(study(corpus, tmp_path / "whole", **content)), lambda _: None)
    real, count = runner.train, 0

    def dying(run: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return real(run, **options)

    monkeypatch.setattr(runner, "train", dying)
    cut = parse_study(study(corpus, tmp_path / "cut", **content))
    with pytest.raises(KeyboardInterrupt):
        run_study(cut, lambda _: None)
    resumed = run_study(cut, lambda _: None)
    assert [p.loss for p in resumed.points] == [p.loss for p in whole.points]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"baseline": "scrath"}, "baseline 'scrath' is no arm"),
        ({"baseline": "stack"}, "the baseline is trained from scratch"),
        ({"budgets": [640, 320]}, "must rise"),
        ({"seeds": []}, "seeds"),
        ({"tuning": {"rates": [1e-2], "budget": 100}}, "none of the budgets"),
        ({"common": {"stages": []}}, "the study sets this itself"),
        ({"common": {"bach": {}}}, "unknown key common.bach"),
        ({"arms": {"scratch": {"model": SMALL, "stages": [{"tokens": 5}]}}}, "takes its length from budgets"),
    ],
)
def test_mistakes_are_named(corpus: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_study(study(corpus, tmp_path, **change))
