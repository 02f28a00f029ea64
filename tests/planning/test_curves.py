"""Curves from files: what is read, what is left out and said so, and one message with file, line and field for every mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outgrow.errors import ConfigError
from outgrow.planning.config import CurveConfig, FitLaw
from outgrow.planning.curves import CurveFile, read_curves, select
from outgrow.planning.plan_law import fitted_law

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 10,
}


def rows(points: int = 12) -> list[dict[str, Any]]:
    """The log of a run of two stages, as `training/loop.py` writes it: warm-up, stable, decay, growth."""
    log: list[dict[str, Any]] = [{"kind": "machine"}]
    log.append({"kind": "stage", "stage": "small", "step": 0, "tokens": 0, "flops": 0.0, "config": CONFIG})
    for k in range(1, points + 1):
        here = {"stage": "small", "step": k, "tokens": 1000 * k, "flops": 5e6 * k}
        rate = 0.5 if k == 1 else (1.0 if k <= points - 2 else 0.3)
        log.append({"kind": "train", **here, "loss": 5.0, "lr": 1e-3 * rate})
        log.append({"kind": "validation", **here, "val_loss": 4.0 + 1.0 / k})
    grown = {"stage": "large", "step": points, "tokens": 1000 * points, "flops": 5e6 * points}
    log += [{"kind": "growth", **grown}, {"kind": "stage", **grown, "config": CONFIG}]
    log.append({"kind": "validation", **grown, "tokens": 1000 * points + 500, "val_loss": 3.9})
    return log


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_log(log: list[dict[str, Any]], end: str = "\n") -> Path:
        path = tmp_path / "metrics.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in log) + end)
        return path

    return write_log


def refused(file: CurveFile) -> str:
    with pytest.raises(ConfigError) as caught:
        read_curves(file)
    assert str(file.path) in str(caught.value)
    return str(caught.value)


def test_metrics(write: Callable[..., Path]) -> None:
    path = write(rows())
    (curve,) = read_curves(CurveFile(path))
    assert curve.parameters == 824
    assert read_curves(CurveFile(path.parent), "without_embeddings")[0].parameters == 824 - 160
    assert len(curve.tokens) == 12
    assert curve.flops_per_token == pytest.approx(5000)
    assert curve.stable == (2000, 10_000)
    assert "large" in curve.notes[0]
    stable = select(curve, "stable")
    assert stable.tokens[0] == 2000
    assert stable.tokens[-1] == 10_000
    assert "3 points in warm-up or decay left out" in stable.notes
    assert select(curve, "final").tokens.tolist() == [12_000]
    assert len(select(curve, "all").tokens) == 12
    later = select(curve, "stable", 5000)
    assert later.tokens[0] == 5000
    assert "3 points before 5,000 tokens left out" in later.notes
    with pytest.raises(ConfigError, match=r"only 4 points from 7,000 tokens on"):
        select(curve, "stable", 7000)


def test_a_line_cut_by_a_kill_is_left_out_and_said(write: Callable[..., Path]) -> None:
    (curve,) = read_curves(CurveFile(write(rows(), end='\n{"kind": "valid')))
    assert len(curve.tokens) == 12
    assert any("cut short" in note for note in curve.notes)


def test_long_curves_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    tokens = np.arange(1, 2001) * 1000
    path.write_text("tokens,loss\n" + "\n".join(f"{t},{3 + 100 / t}" for t in tokens))
    curve = select(read_curves(CurveFile(path, parameters=1e6))[0], "stable")
    assert len(curve.tokens) <= 120
    assert "2000 points averaged" in curve.notes[0]
    np.testing.assert_allclose(curve.loss, 3 + 100 / curve.tokens, rtol=1e-3)


def break_row(place: int, **values: Any) -> list[dict[str, Any]]:
    log = rows()
    found = [row for row in log if row["kind"] == "validation"]
    found[place].update(values)
    return log


def changed_row(kind: str, **values: Any) -> list[dict[str, Any]]:
    log = rows()
    next(row for row in log if row["kind"] == kind).update(values)
    return log


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (break_row(3, val_loss=float("nan")), "line 10: val_loss is not a positive number"),
        (break_row(3, tokens=3000), "line 10: tokens is repeated"),
        (break_row(3, tokens=1500), "line 10: tokens goes back"),
        (break_row(3, val_loss="high"), "line 10: val_loss is not a number"),
        (break_row(3, flops=9e9), "flops and tokens do not fit together"),
        (rows(3), "too few points"),
        (rows()[2:4], "no row of kind 'stage'"),
        (changed_row("train", lr=float("nan")), "line 3: lr is not a finite number"),
        (changed_row("stage", config=None), "line 2: the stage's row has no config"),
        (changed_row("stage", config="llama"), "line 2: the stage's row has no config"),
        (changed_row("stage", stage=None), "line 2: the stage has no name"),
    ],
)
def test_mistakes_in_metrics(write: Callable[..., Path], log: list[dict[str, Any]], said: str) -> None:
    assert said in refused(CurveFile(write(log)))


def test_metrics_that_are_no_log(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(rows())
    path.write_text(path.read_text().replace('{"kind": "machine"}', "{kind: machine}"))
    assert "line 1: not JSON" in refused(CurveFile(path))
    (tmp_path / "run.yaml").write_text("stages: [{name: a, from: other/final}]\n")
    write(rows())
    assert "did not start from scratch" in refused(CurveFile(path))
    for damaged in (b"a: [\n", b"\x00\xff\xfe"):
        (tmp_path / "run.yaml").write_bytes(damaged)
        assert "the run.yaml beside it is damaged" in refused(CurveFile(path))
    (tmp_path / "run.yaml").write_text("stages: [a]\n")
    assert read_curves(
        CurveFile(write([*rows(), {"step": 3}]))
    )  # rows of other kinds are none of its business


def csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "curve.csv"
    path.write_text(text)
    return path


POINTS = "".join(f"{k}e6,{5 - 0.1 * k:.2f}\n" for k in range(1, 8))


def test_csv_with_several_runs(tmp_path: Path) -> None:
    lines = [
        f"{run},{n},{k * 100},{k * 6400},{5 - 0.1 * k}"
        for run, n in (("a", 1e6), ("b", 4e6))
        for k in range(1, 7)
    ]
    path = csv(tmp_path, "run,parameters,steps,tokens,loss\n" + "\n".join(lines))
    one, two = read_curves(CurveFile(path))
    assert (one.parameters, two.parameters) == (1e6, 4e6)
    assert one.tokens[0] == 6400
    assert "run b" in two.source


def test_csv_in_steps(tmp_path: Path) -> None:
    path = csv(tmp_path, "steps,loss\n" + POINTS.replace("e6", "00"))
    (curve,) = read_curves(CurveFile(path, parameters=1e6, tokens_per_step=64))
    assert curve.tokens[:2].tolist() == [6400, 12_800]
    assert "give tokens_per_step" in refused(CurveFile(path, parameters=1e6))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tokens,loss\n" + POINTS, "how many parameters"),
        ("tokens,perplexity\n" + POINTS, "line 1: a curve needs the columns loss"),
        ("tokens,loss\n1M,4.0\n" + POINTS, "line 2: tokens is not a number"),
        ("tokens,loss\n1e5,\n" + POINTS, "line 2: loss is not a number"),
        ("tokens,loss\n1e5,nan\n" + POINTS, "line 2: loss is not a positive number"),
        ("tokens,loss\n" + POINTS + "3e6,4.0\n", "line 9: tokens goes back"),
        ("tokens,loss,loss\n", "given twice"),
        ("tokens,loss\n", "no rows"),
        (
            "parameters,tokens,loss\n" + "".join(f"{1e6 * (1 + k // 4)},{k}e6,4.0\n" for k in range(1, 9)),
            "line 5: parameters change",
        ),
        (
            "steps,tokens,loss\n" + "".join(f"{k},{k * (64 if k > 2 else 64e3)},4.0\n" for k in range(1, 9)),
            "mixed units",
        ),
    ],
)
def test_mistakes_in_csv(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(
        CurveFile(
            csv(tmp_path, text),
            parameters=1e6 if said != "how many parameters" and "parameters" not in text else None,
        )
    )


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "board")) as writer:
        for step in range(10, 90, 10):
            writer.add_scalar("validation/val_loss", 4 + 1 / step, step)
            writer.add_scalar("train/lr", 1e-3 if step < 70 else 1e-4, step)
    file = CurveFile(tmp_path / "board", parameters=1e6, tokens_per_step=1024)
    (curve,) = read_curves(file)
    assert curve.tokens[0] == 10_240
    assert curve.stable == (10_240, 61_440)
    np.testing.assert_allclose(curve.loss[0], 4.1, rtol=1e-6)  # written in float32
    assert "validation/val_loss" in refused(CurveFile(file.path, 1e6, 1024, tag="validation/loss"))
    assert "tokens_per_step" in refused(CurveFile(file.path, 1e6))


def test_files_that_are_no_curves(tmp_path: Path) -> None:
    assert "no such curve file" in refused(CurveFile(tmp_path / "none.csv"))
    other = tmp_path / "notes.txt"
    other.write_text("hello")
    assert "not a curve file" in refused(CurveFile(other))


def test_a_curve_that_does_not_fall_and_one_that_is_given_twice_are_refused(tmp_path: Path) -> None:
    """A law of a constant fits an accuracy with R² 1, and a run that is given twice counts double."""

    def table(name: str, loss: Callable[[int], float]) -> CurveConfig:
        lines = "".join(f"{1000 * k},{loss(k)},50000\n" for k in range(1, 13))
        (tmp_path / name).write_text("tokens,loss,parameters\n" + lines)
        return CurveConfig(path=str(tmp_path / name))

    falls = table("falls.csv", lambda k: 3 + 1 / k)
    for flat in (table("flat.csv", lambda k: 3.0), table("rises.csv", lambda k: k / 13)):
        with pytest.raises(ConfigError, match="the loss does not fall"):
            fitted_law(FitLaw(kind="fit", form="per_size"), [falls, flat])
    with pytest.raises(ConfigError, match="given twice"):
        fitted_law(FitLaw(kind="fit", form="per_size"), [falls, falls])
