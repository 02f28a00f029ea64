"""An arm given as a run file is the arm that is written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compare.tiny import GROW, SMALL
from compare.tiny import text_study as study
from outgrow.comparing import parse_study
from outgrow.errors import ConfigError
from outgrow.files.yaml_file import dump_yaml
from outgrow.run.run_file import parse_run

RUN: dict[str, Any] = {
    "output": "runs/planned",
    "data": {"tokenizer": {"vocab_size": 300}},
    "model": SMALL,
    "stages": [
        {"name": "small", "tokens": "1k", "until": {"trigger": "efficiency"}},
        {"name": "large", "tokens": 320, "grow": GROW, "reentry": {"rewarm_tokens": 64}},
    ],
}


@pytest.mark.parametrize("resolved", [False, True])
@pytest.mark.parametrize(("own", "budgets"), [({}, (320,)), ({"budgets": [320, 640]}, (320, 640))])
def test_a_run_file_is_an_arm(
    corpus: Path, tmp_path: Path, own: dict[str, Any], budgets: tuple[int, ...], resolved: bool
) -> None:
    """As written by hand, or with every default as `outgrow plan --run` does; the tokens of the last stage are its budget."""
    file = tmp_path / "planned.yaml"
    file.write_text(dump_yaml(parse_run(RUN).resolved() if resolved else RUN))
    content = study(corpus, tmp_path / "study")
    content["arms"]["planned"] = {"run": str(file), **own}
    parsed = parse_study(content)
    first, last = RUN["stages"]
    written = {
        "model": SMALL,
        "stages": [
            {"tokens": 1000, "until": first["until"]},
            {"grow": GROW, "reentry": last["reentry"]},
        ],
        "budgets": list(budgets),
    }
    content["arms"]["planned"] = written
    assert parsed == parse_study(content)
    assert parsed.arm_budgets("planned") == budgets


def test_a_run_file_keeps_what_its_stages_read(corpus: Path, tmp_path: Path) -> None:
    own: dict[str, Any] = {
        "data": {"sequence_length": 8},
        "batch": {"sequences": 32},
        "optimizer": {"eps": 1e-6, "gradient_clip": None},
    }
    first, last = RUN["stages"]
    stages = [{**first, "tokens": 1024, **own, "precision": "bf16"}, last]
    (tmp_path / "planned.yaml").write_text(dump_yaml(parse_run({**RUN, "stages": stages}).resolved()))
    content = study(corpus, tmp_path / "study")
    content["arms"]["planned"] = {"run": str(tmp_path / "planned.yaml")}
    small, large = parse_study(content).arms["planned"].stages
    assert small.own_steps() == {**own, "precision": "bf16"}
    assert large.own_steps() == {}


def test_a_run_file_keeps_the_moments_of_a_learned_growth(corpus: Path, tmp_path: Path) -> None:
    """`transport` is the default of other growths, and a learned one resets where nobody says."""
    grow = {**GROW, "learn": {"steps": 3}, "moments": "transport"}
    first, last = RUN["stages"]
    (tmp_path / "planned.yaml").write_text(dump_yaml({**RUN, "stages": [first, {**last, "grow": grow}]}))
    content = study(corpus, tmp_path / "study")
    content["arms"]["planned"] = {"run": str(tmp_path / "planned.yaml")}
    last_stage = parse_study(content).arms["planned"].stages[-1]
    assert last_stage.grow is not None
    assert last_stage.grow.moments == "transport"


@pytest.mark.parametrize(
    ("arm", "change", "says"),
    [
        ({"run": "planned.yaml", "model": SMALL}, {}, r"arms\.planned: run names a file"),
        ({"run": 3}, {}, r"arms\.planned: run names a file"),
        ({"run": "missing.yaml"}, {}, r"cannot be read: missing\.yaml"),
        ({"run": "planned.yaml"}, {"model": None}, "begins with a checkpoint"),
        ({"run": "planned.yaml"}, {"stages": []}, r"planned\.yaml: stages"),
        ({"run": "nowhere.yaml"}, {}, r"arms\.planned\.run: the file cannot be read: nowhere\.yaml"),
        ({"run": "planned.yaml"}, {"peak": 1e-3}, r"arms\.planned: stages\[1\]\.reentry\.peak"),
        (
            {"model": SMALL, "stages": [{"batch": {"sequence": 4}}]},
            {},
            r"unknown key arms\.planned\.stages\.0\.batch\.sequence",
        ),
    ],
)
def test_what_is_no_arm_is_refused(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arm: dict[str, Any],
    change: dict[str, Any],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    first, last = RUN["stages"]
    run = {**RUN, **{key: value for key, value in change.items() if key != "peak"}}
    if "model" in change:
        run["stages"] = [{**first, "from": "runs/old/final"}, last]
    if "peak" in change:
        run["stages"] = [first, {**last, "reentry": {"peak": change["peak"]}}]
    (tmp_path / "planned.yaml").write_text(dump_yaml(run))
    content = study(corpus, tmp_path / "study")
    content["arms"]["planned"] = arm
    with pytest.raises(ConfigError, match=says):
        parse_study(content)
