"""Trying several operators before a stage: the best is kept, everything is counted, and a killed run does the same again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outgrow.errors import OutgrowError
from outgrow.report.run import run_report
from outgrow.run.run_file import parse_run
from outgrow.state.training_state import TrainingState
from outgrow.training.folder import read_metrics
from outgrow.training.loop import train_run

PROBE = {
    "steps": 3,
    "candidates": [{"depth": "stack"}, {"depth": "identity"}, {"depth": "random", "width": "pad"}],
}


def with_probe(
    make: Callable[..., dict[str, Any]], output: Path, probe: dict[str, Any] = PROBE
) -> dict[str, Any]:
    run = make(output=str(output))
    run["stages"][1]["grow"]["probe"] = probe
    return run


def test_the_best_is_kept_and_everything_counted(tiny: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run = parse_run(with_probe(tiny, tmp_path / "run"))
    result = train_run(run, progress=False)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    probe = next(row for row in rows if row["kind"] == "probe")
    ends = [trial["loss_at_end"] for trial in probe["trials"]]
    assert ends == sorted(ends)
    assert [len(trial["losses"]) for trial in probe["trials"]] == [3, 3, 3]
    assert "mislead" in probe["warning"]
    best = probe["trials"][0]
    final = TrainingState.from_pretrained(tmp_path / "run" / "final")
    entry = final.lineage[-1]
    assert (entry["growth"]["width"], entry["growth"]["depth"]) == (best["width"], best["depth"])
    assert entry["probe"]["trials"] == probe["trials"]
    growth = next(row for row in rows if row["kind"] == "growth")
    assert growth["loss_after"] == best["loss_after_growth"]  # grown anew, from the state before the probe

    plain = parse_run(tiny(output=str(tmp_path / "plain")))
    without = train_run(plain, progress=False)
    step_flops = without.stages[1].flops / 12
    assert entry["probe"]["flops"] == pytest.approx(9 * step_flops)
    assert result.stages[1].flops == pytest.approx(without.stages[1].flops + 9 * step_flops)
    last, last_plain = rows[-1], read_metrics(tmp_path / "plain" / "metrics.jsonl")[-1]
    assert last["flops"] == pytest.approx(last_plain["flops"] + 9 * step_flops)

    again = parse_run(with_probe(tiny, tmp_path / "again"))
    train_run(again, progress=False)
    other = next(row for row in read_metrics(tmp_path / "again" / "metrics.jsonl") if row["kind"] == "probe")
    assert other["trials"] == probe["trials"]  # a function of state, configuration and step alone
    run_report(tmp_path / "run")
    assert (tmp_path / "run" / "probe-large.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "asks", [{"freeze": {"what": "old"}}, {"new_entries": {"multiplier": 2}}, {"masks": {"rise_tokens": 64}}]
)
def test_what_is_new_is_not_known_before_a_probe_has_chosen(
    tiny: Callable[..., dict[str, Any]], tmp_path: Path, asks: dict[str, Any]
) -> None:
    run = with_probe(tiny, tmp_path / "bad")
    run["stages"][1] |= asks
    with pytest.raises(OutgrowError, match="a probe has still to choose"):
        parse_run(run)


def test_mistakes_in_a_probe_are_named_before_any_training(
    tiny: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    for candidates, says in (
        ([{"depth": "stak"}, {"depth": "identity"}], "did you mean stack"),
        ([{"depth": "stack"}], "candidates"),
        ([{"deep": "stack"}, {}], "depth"),
    ):
        probe = {"steps": 3, "candidates": candidates}
        with pytest.raises(OutgrowError, match=says):
            train_run(parse_run(with_probe(tiny, tmp_path / "bad", probe)), progress=False)
        assert not (tmp_path / "bad" / "final").exists()
