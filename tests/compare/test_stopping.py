"""The look of `early_stop`: who is stopped, on which seeds, and what the report says; runs are replaced by their law."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import log, sin
from pathlib import Path
from typing import Any

import pytest

import outgrow.comparing.piece_trainer as piece_trainer
import outgrow.comparing.runner as runner
from compare.tiny import SMALL, text_study
from outgrow.commands.compare import study_report
from outgrow.comparing import StudyConfig, parse_study, run_study
from outgrow.comparing.check import check_study
from outgrow.comparing.estimate import estimate
from outgrow.comparing.stopping import behind
from outgrow.errors import ConfigError
from outgrow.report.compare_tables import sections
from outgrow.run.config import RunConfig
from outgrow.training.folder import Begun, Pointer, RunFolder

WORTH = {"stack": 1.0, "identity": 0.55, "interleave": 0.995}
"""What a token of the small model is worth after each growth, in tokens of the large one; it costs a half."""
ARMS = {
    "scratch": {"model": {**SMALL, "num_hidden_layers": 2}},
    **{
        depth: {
            "model": SMALL,
            "stages": [{"tokens": 256}, {"grow": {"to": {"num_hidden_layers": 2}, "depth": depth}}],
            "budgets": [640],
        }
        for depth in WORTH
    },
}


def by_law(run: RunConfig, **_: Any) -> None:
    """A run as its log: L = 5 - 0.3 ln T, T in tokens of the large model; a seed moves all arms, a growth a little more."""
    (stage,) = run.resolved()["stages"]
    folder = RunFolder(Path(run.output))
    folder.root.mkdir(parents=True)
    parent = (
        None if stage["from"] is None else json.loads((Path(stage["from"]).parent / "law.json").read_text())
    )
    grow = stage["grow"]
    depth = parent["depth"] if grow is None and parent else grow and grow["depth"]
    before = 0.0 if parent is None else parent["worth"] * (WORTH[depth] if grow else 1.0)
    small = parent is None and run.model is not None and run.model["num_hidden_layers"] == 1
    worth = before + stage["tokens"]
    noise = 0.05 * run.seed + (0.006 * sin(17 * run.seed + 5 * len(depth)) if depth else 0.0)
    loss = 5 - 0.3 * log(worth) + noise + (0.1 if run.schedule.kind == "constant" else 0.0)
    tokens = stage["tokens"]
    place = {"stage": "one", "step": 1, "seconds": 1.0}
    config = {**SMALL, "vocab_size": 300, "num_hidden_layers": 1 if small else 2}
    rows = [
        {"kind": "stage", **place, "tokens": 0, "flops": 0, "parameters": 1, "config": config},
        {
            "kind": "validation",
            **place,
            "tokens": tokens,
            "flops": tokens * (5e5 if small else 1e6),
            "val_loss": loss,
        },
    ]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder.root / "law.json").write_text(json.dumps({"worth": worth, "depth": depth}))
    folder.set_pointer(Pointer("final", (Begun(0, 0, 1),), 1, 1.0, 1.0, 1, True, {"fingerprint": "one"}))


@pytest.fixture
def lawful(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StudyConfig]:
    """Studies whose runs follow the law."""
    monkeypatch.setattr(piece_trainer, "train_run", by_law)
    monkeypatch.setattr(piece_trainer, "check_data", lambda *_: None)
    monkeypatch.setattr(runner, "study_speeds", lambda models, *_: dict.fromkeys(models, 1e-6))

    def make(**replace: Any) -> StudyConfig:
        content = {"arms": ARMS, "budgets": [512, 1280], "seeds": [0, 1, 2, 3], **replace}
        content = {"early_stop": {"after": 3}, **content}
        return parse_study(text_study(corpus, tmp_path / "study", **content))

    return make


def test_only_an_arm_that_is_clearly_behind_is_stopped(lawful: Callable[..., StudyConfig]) -> None:
    study = lawful()
    said: list[str] = []
    result = run_study(study, said.append)
    (one,) = result.stopped
    assert (one.arm, one.seeds, one.leader) == ("identity", (0, 1, 2), "stack")
    # All pay 640 + 128 tokens. The leader's are worth 896 of the baseline's, the other's 780.8: savings of 14.3 and 1.6 %.
    leading, left = result.savings()["stack"][0], result.savings()["identity"][0]
    assert leading.saving == pytest.approx(1 - 768 / 896, abs=0.03)
    assert left.saving == pytest.approx(1 - 768 / 780.8, abs=0.03)
    assert one.difference.mean == pytest.approx(left.saving - leading.saving, abs=0.02)
    assert one.difference.high is not None
    assert one.difference.high < 0
    # Its small stage is the leader's too; 512 tokens of the trunk and 128 of the decay are not trained.
    assert one.spared_tokens == 640
    seeds = {arm: [point.seed for point in result.points if point.arm == arm] for arm in study.arms}
    assert (seeds["identity"], seeds["interleave"], seeds["stack"]) == ([0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3])
    # It is compared with the baseline's first three seeds, not with all four: seeds move both arms alike.
    paired = result.paired()["identity"][0]
    assert len(paired.savings) == 3
    assert paired.saving is not None
    assert paired.saving.mean == pytest.approx(left.saving, abs=1e-3)
    assert any(line.startswith("identity: no more seeds, behind stack") for line in said)
    assert any(caution.startswith("'identity' got no more than 3 of 4 seeds") for caution in result.cautions)
    (table,) = (table for table in sections(result) if table.heading == "Stopped early")
    assert [row[:3] for row in table.rows] == [("identity", "3 of 4", "stack")]
    assert "one look at 3 arms that grow, 1 stopped" in table.note
    report = study_report(result)
    assert "Stopped early" in report.markdown.read_text()
    assert json.loads(report.json.read_text())["stopped"][0]["arm"] == "identity"
    planned = estimate(study, check_study(study, lambda _: None), measure=False)
    assert all(arm.there == arm.pieces for arm in planned)
    assert run_study(study, lambda _: None).stopped == result.stopped


def test_rule_on_numbers() -> None:
    assert behind({}) == ("", {})
    assert behind({"a": [None, 0.1]}) == ("", {})
    assert behind({"a": [0.1, 0.2], "b": [0.1, 0.2]}) == ("a", {})  # equal on every seed
    leader, found = behind({"a": [0.3, 0.1, 0.2], "b": [0.28, 0.08, 0.18], "c": [0.1, 0.3, 0.1]})
    # b is behind by 2 points on every seed, though both move by 20; c by 3 on average, and nobody knows.
    assert (leader, list(found)) == ("a", ["b"])
    assert found["b"].mean == pytest.approx(-0.02)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"early_stop": {"after": 4}}, "4 of 4 seeds leaves none"),
        ({"early_stop": {"after": 1}}, "early_stop.after"),
        ({"early_stop": {"aftr": 3}}, "unknown key early_stop.aftr"),
        ({"arms": {"scratch": ARMS["scratch"], "stack": ARMS["stack"]}}, "fewer than two"),
    ],
)
def test_mistakes_are_named(lawful: Callable[..., StudyConfig], change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        lawful(**change)
