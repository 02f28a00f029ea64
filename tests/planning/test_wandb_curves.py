"""Charts that Weights & Biases exports as CSV: a column per run and series, with extremes beside it, empty where a run has no point."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from outgrow.errors import ConfigError
from outgrow.planning.curves import CurveFile, read_curves

Export = Callable[..., Path]
SIZES = {"small - v2": 1e6, "large": 4e6}


def loss(run: str, step: int) -> float:
    return 3.0 + 100.0 / (step + 50) - 0.1 * (run == "large")


def columns(runs: Sequence[str], series: Sequence[str] = ("eval/loss",)) -> list[str]:
    ends = ("", "__MIN", "__MAX")
    return [f"{run} - {name}{end}" for run in runs for name in ("_step", *series) for end in ends]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Every run at each tenth step, `large` at each twentieth, as the browser writes it: all cells in quotes."""

    def write(
        axis: str = "Step",
        change: Mapping[tuple[int, str], str] | None = None,
        series: Sequence[str] = ("eval/loss",),
    ) -> Path:
        path = tmp_path / "wandb_export_2026-11-29.csv"
        header = [axis, *columns(list(SIZES), series)]
        with open(path, "w", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL)
            writer.writerow(header)
            for step in range(0, 200, 10):
                row = dict.fromkeys(header, "")
                row[axis] = str(step)
                for run in SIZES:
                    if run == "large" and step % 20:
                        continue
                    for name in columns([run], series):
                        bare = name.removesuffix("__MIN").removesuffix("__MAX")
                        value = step if bare.endswith("_step") else loss(run, step)
                        if bare.endswith("train/learning_rate"):
                            value = 1e-3 if step < 150 else 1e-4
                        row[name] = str(value + 5 * name.endswith("__MAX"))
                row |= {name: text for (at, name), text in (change or {}).items() if at == step}
                writer.writerow(row.values())
        return path

    return write


def refused(file: CurveFile) -> str:
    with pytest.raises(ConfigError) as caught:
        read_curves(file)
    assert str(file.path) in str(caught.value)
    return str(caught.value)


def test_runs_of_several_sizes(export: Export) -> None:
    small, large = read_curves(CurveFile(export(), SIZES, tokens_per_step=64))
    assert (small.parameters, large.parameters) == (1e6, 4e6)
    assert "small - v2" in small.source
    assert small.tokens.tolist() == [64 * step for step in range(10, 200, 10)]  # step 0 has seen no token
    assert large.tokens.tolist() == [64 * step for step in range(20, 200, 20)]
    assert large.loss.tolist() == [loss("large", step) for step in range(20, 200, 20)]  # not the extremes
    assert small.notes == ("1 points before the first token left out",)
    assert small.stable is None


def test_tokens_as_the_axis(export: Export) -> None:
    path = export("train/num_input_tokens_seen")
    (small, _) = read_curves(CurveFile(path, 1e6))
    assert small.tokens[0] == 10
    assert "tokens_per_step is given, but" in refused(CurveFile(path, 1e6, 64))


def test_a_rate_says_where_it_is_at_its_peak(export: Export) -> None:
    path = export("train/global_step", series=("eval/loss", "train/learning_rate"))
    (small, _) = read_curves(CurveFile(path, 1e6, tokens_per_step=64))
    assert small.stable == (0, 64 * 140)


def test_the_page_of_one_run(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    rows = "".join(f"{step},{loss('', step)},0,9\n" for step in range(1, 9))
    for name in ("train/loss", "loss"):
        path.write_text(f"Step,{name},{name}__MIN,{name}__MAX\n" + rows)
        (curve,) = read_curves(CurveFile(path, 1e6, tokens_per_step=64))
        assert curve.loss.tolist() == [loss("", step) for step in range(1, 9)]
        assert "holds one run without a name" in refused(CurveFile(path, SIZES, 64))


def test_several_series_need_a_tag(export: Export) -> None:
    path = export(series=("eval/loss", "train/loss"))
    message = refused(CurveFile(path, 1e6, 64))
    assert "which series is the loss?" in message
    assert "eval/loss, train/loss" in message
    assert len(read_curves(CurveFile(path, 1e6, 64, tag="train/loss"))) == 2
    assert "did you mean eval/loss" in refused(CurveFile(path, 1e6, 64, tag="eval/los"))


def test_a_run_without_the_series_is_left_out_and_said(export: Export) -> None:
    path = export()
    path.write_text(path.read_text().replace("large - eval/loss", "large - train/loss"))
    (curve,) = read_curves(CurveFile(path, 1e6, 64, tag="eval/loss"))
    assert "runs without eval/loss left out: large" in curve.notes


SMALL, LARGE = "small - v2 - eval/loss", "large - eval/loss"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({(20, SMALL): "NaN"}, f"line 4: {SMALL} is not a positive number"),
        ({(20, SMALL): "Infinity"}, f"line 4: {SMALL} is not a positive number"),
        ({(20, SMALL): "-1"}, f"line 4: {SMALL} is not a positive number"),
        ({(20, SMALL): "low"}, f"line 4: {SMALL} is not a number"),
        ({(20, "Step"): "2k"}, "line 4: Step is not a number"),
        ({(20, "Step"): ""}, "line 4: Step is not a number"),
        ({(20, "Step"): "5"}, "line 4: Step goes back"),
        ({(20, "Step"): "nan"}, "line 4: Step is not a positive number"),
        ({(step, LARGE): "" for step in range(0, 200, 20)}, f"the column '{LARGE}' is empty"),
        ({(step, LARGE): "" for step in range(80, 200, 20)}, "too few points for a curve"),
    ],
)
def test_mistakes_in_cells(export: Export, change: dict[tuple[int, str], str], said: str) -> None:
    assert said in refused(CurveFile(export(change=change), 1e6, tokens_per_step=64))


def test_mistakes_in_what_is_given(export: Export, tmp_path: Path) -> None:
    path = export()
    assert "give tokens_per_step" in refused(CurveFile(path, 1e6))
    assert "how many parameters" in refused(CurveFile(path, tokens_per_step=64))
    assert "parameters does not name the run 'large'" in refused(CurveFile(path, {"small - v2": 1e6}, 64))
    assert "no run 'larg', which parameters names" in refused(CurveFile(path, {**SIZES, "larg": 1e6}, 64))
    assert "counts neither steps nor tokens" in refused(
        CurveFile(export("Relative Time (Process)"), SIZES, 64)
    )
    extremes = tmp_path / "extremes.csv"
    extremes.write_text("Step,a - loss__MIN,a - loss__MAX\n1,2,3\n")
    assert "line 1: no series" in refused(CurveFile(extremes, 1e6, 64))
    twins = tmp_path / "twins.csv"
    twins.write_text("Step,a - loss,a - loss\n1,2,3\n")
    assert "a column is given twice" in refused(CurveFile(twins, 1e6, 64))
    commas = tmp_path / "commas.csv"
    commas.write_text("Step,a - loss\n1,2,5\n")
    assert "line 2: more cells than columns" in refused(CurveFile(commas, 1e6, 64))
    bare = tmp_path / "bare.csv"
    bare.write_text("Step,a - loss\n")
    assert "no rows" in refused(CurveFile(bare, 1e6, 64))
