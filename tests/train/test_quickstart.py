"""`outgrow quickstart`: both runs cost the same, and what is said of them is what their logs say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from outgrow.commands.console import open_console
from outgrow.commands.quickstart import quickstart_command, quickstart_run
from outgrow.errors import ConfigError
from outgrow.report.beside import Beside, read_beside
from outgrow.training.folder import RunFolder, read_metrics

TINY = [
    "data.limit_bytes=200k",
    "data.tokenizer={vocab_size: 300}",
    "data.sequence_length=16",
    "model={model_type: llama, hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2,"
    " num_key_value_heads: 2, tie_word_embeddings: true}",
    "stages.0.tokens=2048",
    "stages.1.tokens=1024",
    "stages.1.grow.to={hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 4,"
    " num_key_value_heads: 4}",
    "schedule.warmup_tokens=256",
    "batch.sequences=4",
    "evaluation={every_tokens: 256, sequences: 4}",
]


def row(kind: str, flops: float, loss: float) -> dict[str, object]:
    return {"kind": kind, "flops": flops, "val_loss": loss}


def test_both_runs_cost_the_same_and_end_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quiet = open_console(quiet=True)
    found = quickstart_command(Path("mine"), TINY, console=quiet)
    root = tmp_path / "mine"
    step = read_metrics(RunFolder(root / "scratch").metrics)[-1]["flops"] / 48  # of at least 48 steps
    assert abs(found["flops_grown"] - found["flops_scratch"]) <= step
    assert f"{found['loss_grown']:.2f}, from scratch {found['loss_scratch']:.2f}" in found["verdict"]
    assert any("flatters growth" in caution for caution in found["cautions"])
    page = (root / "compare.html").read_text()
    assert page.index(found["verdict"].split(";")[0]) < page.index("<img") < page.index("<table")
    for name in ("compare.png", "compare.svg", "report.html", "run.yaml", "final", "scratch/final"):
        assert (root / name).exists(), name
    before = (root / "metrics.jsonl").read_bytes()
    assert quickstart_command(Path("mine"), TINY, console=quiet)["verdict"] == found["verdict"]
    assert (root / "metrics.jsonl").read_bytes() == before


def test_the_cost_from_scratch_is_read_off_its_own_slope() -> None:
    """Curves that are a - b ln C: the same loss from scratch costs exp((difference) / b) times as much."""
    scratch = [
        row("validation", c, 9.0 - 0.5 * math.log(c)) for c in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 10.0)
    ]
    end = float(scratch[-1]["val_loss"])  # type: ignore[arg-type]
    grown = [row("validation", 10.0, end - 0.5 * math.log(2.0))]
    beside = Beside(grown, scratch)
    assert beside.scratch_flops_at_grown_loss == pytest.approx(20.0)
    assert "about 20 FLOPs, 2.0 times as many (extrapolated)" in beside.verdict
    far = Beside([row("validation", 10.0, end - 0.5 * math.log(7.0))], scratch)
    assert "more than 30 FLOPs, 3 times as many (extrapolated)" in far.verdict
    worse = Beside([row("validation", 10.0, end + 0.1)], scratch)
    assert worse.verdict.endswith("the growth did not pay.")


def test_the_run_that_comes_along_is_the_example(tmp_path: Path) -> None:
    run = quickstart_run(tmp_path / "out")
    assert run.output == str(tmp_path / "out")
    assert [stage.name for stage in run.stages] == ["small", "large"]
    with pytest.raises(ConfigError, match="no finished run"):
        read_beside(tmp_path, tmp_path)
