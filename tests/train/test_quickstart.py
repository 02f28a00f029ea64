"""`outgrow quickstart`: both runs cost the same, and what is said of them is what their logs say."""

from __future__ import annotations

from pathlib import Path

import pytest

from outgrow.commands.console import open_console
from outgrow.commands.options import QuickstartCall
from outgrow.commands.quickstart import quickstart_run, run
from outgrow.errors import ConfigError
from outgrow.report.beside import Beside, read_beside
from outgrow.training.folder import RunFolder, read_metrics
from outgrow.training.run_log import RunLog

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


def log(*points: tuple[float, float]) -> RunLog:
    """A run of one stage with these validations (FLOPs, loss)."""
    opening = {"kind": "stage", "stage": "one", "tokens": 0, "flops": 0.0, "seconds": 0.0, "parameters": 1}
    ends = [{**opening, "kind": "validation", "flops": flops, "val_loss": loss} for flops, loss in points]
    return RunLog.of([opening, *ends])


def test_both_runs_cost_the_same_and_end_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quiet = open_console(quiet=True)
    found = run(QuickstartCall(Path("mine"), TINY), quiet).to_json()
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
    assert run(QuickstartCall(Path("mine"), TINY), quiet).to_json()["verdict"] == found["verdict"]
    assert (root / "metrics.jsonl").read_bytes() == before


def test_the_sentence_says_what_was_measured_and_nothing_beyond() -> None:
    scratch, grown = log((5.0, 6.0), (10.0, 5.0)), log((2.0, 5.5), (4.0, 4.9), (10.0, 4.5))
    assert Beside(grown, scratch).flops_at_scratch_loss == 4.0
    assert Beside(grown, scratch).verdict == (
        "For the same compute (10 FLOPs, one seed, untuned): grown 4.50, from scratch 5.00; "
        "the grown run was there after 4 FLOPs."
    )
    worse = Beside(log((4.0, 4.9), (10.0, 5.1)), scratch)
    assert worse.verdict.endswith("grown 5.10, from scratch 5.00. Here the growth did not pay.")


def test_the_run_that_comes_along_is_the_example(tmp_path: Path) -> None:
    staged = quickstart_run(tmp_path / "out")
    assert staged.output == str(tmp_path / "out")
    assert [stage.name for stage in staged.stages] == ["small", "large"]
    with pytest.raises(ConfigError, match="no finished run"):
        read_beside(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("stages=[{name: one, tokens: 1024}]", "nothing grows"),
        ("stages.1.grow={as: mixtral, to: {num_local_experts: 2, num_experts_per_tok: 1}}", "another type"),
    ],
)
def test_a_run_without_a_twin_is_refused_before_any_training(tmp_path: Path, change: str, what: str) -> None:
    call = QuickstartCall(tmp_path / "mine", [*TINY, change])
    with pytest.raises(ConfigError, match=what):
        run(call, open_console(quiet=True))
    assert not (tmp_path / "mine").exists()
