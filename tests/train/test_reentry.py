"""The learning rate across a growth: positions, re-warm-ups and peaks, and what is said before the run starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from outgrow.commands.console import open_console
from outgrow.commands.options import TrainCall
from outgrow.commands.train import run
from outgrow.errors import ConfigError
from outgrow.files.yaml_file import dump_yaml
from outgrow.report.rates import rate_line
from outgrow.run.reentry import LOSS_MATCHED_RATIO, Factors, entry_peak, learning_rate_law, matched_tokens
from outgrow.run.run_file import load_run, parse_run
from outgrow.run.schedule import WSD, Linear, learning_rate
from outgrow.training import train_run
from outgrow.training.course import Course, planned
from outgrow.training.folder import read_metrics
from outgrow.training.preflight import preflight

Tiny = Callable[..., dict[str, Any]]
# Learning rates of the configurations in the released code of arXiv 2203.06211 (12 n_layer d² parameters each).
PUBLISHED_PEAKS = [
    (12, 768, 0.002132893),
    (12, 384, 0.002216880),
    (24, 1536, 0.002006912),
    (6, 1536, 0.002090899),
]
DOUBLED = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4}


def with_reentry(
    tiny: Tiny, reentry: dict[str, Any], to: dict[str, Any] | None = None, **keys: Any
) -> dict[str, Any]:
    data = tiny(**keys)
    data["stages"][1]["reentry"] = reentry
    if to is not None:
        data["stages"][1]["grow"]["to"] = to
    return data


def courses(data: dict[str, Any]) -> tuple[Course, ...]:
    run = parse_run(data)
    return planned(run, preflight(run).stages)


@pytest.mark.parametrize(("layers", "width", "peak"), PUBLISHED_PEAKS)
def test_the_size_law_gives_the_published_peaks(layers: int, width: int, peak: float) -> None:
    assert learning_rate_law(12 * layers * width**2) == pytest.approx(peak, abs=1e-9)


def test_peaks() -> None:
    factors = Factors(width=2, layers=1, parameters=4, flops=4)
    assert entry_peak("keep", 1e-3, 1e6, factors) == 1e-3
    assert entry_peak(3e-4, 1e-3, 1e6, None) == 3e-4
    assert entry_peak("mup", 1e-3, 1e6, factors) == 5e-4
    assert entry_peak("size_law", learning_rate_law(1e6), 1e6, factors) == pytest.approx(
        learning_rate_law(4e6)
    )


def test_a_curve_is_read_where_it_first_comes_down() -> None:
    bumpy = [(100.0, 5.0), (200.0, 4.0), (400.0, 4.4), (800.0, 3.0)]
    assert matched_tokens(bumpy, 4.0) == 200
    assert matched_tokens(bumpy, 3.5) == 400  # from the lowest point so far, in log tokens
    assert matched_tokens(bumpy, 6.0) == 100
    assert matched_tokens(bumpy, 1.0) == 800


def test_a_re_warm_up_that_straddles_the_warm_up_never_overshoots() -> None:
    """The released code of arXiv 2203.06211 does: its ramp ends above the schedule and then falls back to it."""
    linear = Linear(warmup_tokens=100)
    rates = [
        learning_rate(linear, 1.0, tokens, 1000, stage_start=60, rewarm_tokens=80)
        for tokens in range(60, 300)
    ]
    schedule = [linear.factor(tokens, 1000) for tokens in range(60, 300)]
    assert rates[0] == 0
    assert all(rate <= factor for rate, factor in zip(rates, schedule, strict=True))
    assert rates[80:] == schedule[80:]
    assert max(abs(b - a) for a, b in pairwise(rates)) < 0.04  # no jump


def test_positions(tiny: Tiny) -> None:
    tokens = 64 * 12

    def second(reentry: dict[str, Any], to: dict[str, Any] | None = None) -> tuple[int, int]:
        course = courses(with_reentry(tiny, reentry, to))[1]
        return course.now.position, course.total()

    assert second({}) == (tokens, 2 * tokens)
    assert second({"position": "320"}) == (320, 320 + tokens)
    assert second({"position": {"ratio": 2.0}}) == (tokens // 2, tokens // 2 + tokens)
    matched = round(tokens / LOSS_MATCHED_RATIO["width"])
    assert second({"position": "loss_matched"}, DOUBLED) == (matched, matched + tokens)
    with pytest.raises(ConfigError, match=r"stages\.1\.reentry\.position: loss_matched(.|\n)*width x 1\.5"):
        second({"position": "loss_matched"})


def test_a_later_stage_keeps_the_position_that_a_growth_moved(tiny: Tiny) -> None:
    data = with_reentry(tiny, {"position": {"ratio": 2.0}})
    data["stages"].append({"name": "last", "tokens": 64 * 4})
    found = courses(data)
    assert found[2].now.position == 64 * 6 + 64 * 12
    assert found[1].total() == found[2].total() == 64 * (6 + 12 + 4)
    assert [course.now.first for course in found] == [0, 12, 24]


def test_the_learning_rate_of_the_loop_is_the_planned_one(tiny: Tiny, tmp_path: Path) -> None:
    reentry = {"position": {"ratio": 2.0}, "rewarm_tokens": 256, "peak": 4e-3}
    run = parse_run(with_reentry(tiny, reentry, log_every_steps=1))
    train_run(run, progress=False)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    first, second = planned(run, preflight(run).stages)
    assert [row["lr"] for row in rows] == [
        *(first.learning_rate(step) for step in range(12)),
        *(second.learning_rate(step) for step in range(12, 24)),
    ]
    assert max(row["lr"] for row in rows[12:]) == 4e-3
    assert rows[12]["lr"] == pytest.approx(4e-3 / 8)  # the middle of the first of four steps of re-warm-up

    from outgrow.state.training_state import TrainingState

    record = TrainingState.from_pretrained(tmp_path / "run" / "final").records["schedule"]
    assert (record["peak"], record["tokens"], record["total_tokens"]) == (4e-3, 64 * 18, 64 * 18)


def test_a_position_by_the_curve_of_the_target(tiny: Tiny, tmp_path: Path) -> None:
    curve = tmp_path / "target.jsonl"
    points = [(64, 9.0), (128, 5.0), (6400, 1.0)]
    curve.write_text(
        "".join(
            json.dumps(
                {
                    "kind": "validation",
                    "stage": "large",
                    "step": t,
                    "flops": 1.0,
                    "seconds": 1.0,
                    "tokens": t,
                    "val_loss": loss,
                }
            )
            + "\n"
            for t, loss in points
        )
    )
    train_run(parse_run(with_reentry(tiny, {"position": {"curve": str(curve)}})), progress=False)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    (before,) = [row["loss_before"] for row in rows if row["kind"] == "growth"]
    opening = [row for row in rows if row["kind"] == "stage"][1]
    assert opening["position"] == matched_tokens([(float(t), loss) for t, loss in points], before)
    assert 64 < opening["position"] < 6400

    curve.write_text("")
    with pytest.raises(ConfigError, match=r"too few validation losses in .*target\.jsonl"):
        preflight(parse_run(with_reentry(tiny, {"position": {"curve": str(curve)}})))
    curve.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        preflight(parse_run(with_reentry(tiny, {"position": {"curve": str(curve)}})))


def test_growing_after_the_decay_has_begun_is_warned_about(tiny: Tiny) -> None:
    assert preflight(parse_run(tiny())).warnings == ()
    late = tiny(schedule={"kind": "wsd", "decay_share": 0.8})
    (warning,) = preflight(parse_run(late)).warnings
    assert "stage 'large' grows when the learning rate has decayed to 62% of its peak" in warning
    assert "decay_share to 0.5" in warning
    assert preflight(parse_run(late | {"schedule": {"kind": "wsd", "decay_share": 0.5}})).warnings == ()
    (warning,) = preflight(parse_run(tiny(schedule={"kind": "cosine"}))).warnings
    assert "schedule.kind wsd" in warning
    (warning,) = preflight(parse_run(tiny(schedule={"kind": "wsd", "warmup_tokens": "1M"}))).warnings
    assert "warmup_tokens 1,000,000 outlasts the run's 1,536 tokens" in warning


def test_it_is_shown_before_the_run_starts(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(with_reentry(tiny, {"position": {"ratio": 2.0}, "rewarm_tokens": 128})))
    dry = run(TrainCall(path, ["schedule.decay_share=0.8"], dry_run=True), open_console())
    dry.show(open_console())
    shown = capsys.readouterr().out
    assert "384 to 1.15 K" in shown
    assert "position / 2;" in shown
    assert "▁" in shown
    assert "warning: stage 'large' grows" in shown
    assert [stage["position"] for stage in json.loads(json.dumps(dry.to_json()))["rates"]] == [
        [0, 768],
        [384, 1152],
    ]
    assert not (tmp_path / "run").exists()

    run(TrainCall(path), open_console())
    assert "on the schedule" in capsys.readouterr().err
    assert (tmp_path / "run" / "learning_rate.png").read_bytes().startswith(b"\x89PNG")


def test_the_line_shows_where_stages_begin() -> None:
    wsd = WSD(decay_share=0.5)
    stages = [[(t, wsd.factor(t, 100)) for t in part] for part in (range(50), range(50, 100))]
    line = rate_line(stages, width=20)
    assert line[:11] == "██████████|"
    assert len(line) == 21
    assert list(line[11:]) == sorted(line[11:], reverse=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"position": "kep"}, r"stages\.1\.reentry\.position: Input should be 'keep' or 'loss_matched'"),
        ({"position": "2x"}, r"stages\.1\.reentry\.position(.|\n)*2x"),
        ({"position": {"ratio": 0}}, r"stages\.1\.reentry\.position\.ratio"),
        ({"position": {"rato": 2}}, r"unknown key stages\.1\.reentry\.position\.rato(.|\n)*ratio"),
        ({"peak": "law"}, r"stages\.1\.reentry\.peak"),
        ({"rewarm": 2}, r"unknown key stages\.1\.reentry\.rewarm(.|\n)*rewarm_tokens"),
    ],
)
def test_mistakes(change: dict[str, Any], words: str, tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_run(with_reentry(tiny, change))


def test_positions_and_peaks_that_need_a_growth(tiny: Tiny) -> None:
    data = tiny()
    data["stages"][0]["reentry"] = {"peak": "mup"}
    with pytest.raises(
        ConfigError, match=r"stages\[0\]\.reentry: loss_matched, size_law and mup need a growth"
    ):
        parse_run(data)
    data["stages"][0]["reentry"] = {"position": {"ratio": 2}}
    with pytest.raises(ConfigError, match=r"stages\[0\]\.reentry\.position: nothing before it"):
        parse_run(data)


def test_every_form_survives_the_resolved_file(tiny: Tiny, tmp_path: Path) -> None:
    for position in ("keep", "loss_matched", 4096, {"ratio": 1.5}, {"curve": "x.jsonl"}):
        data = with_reentry(tiny, {"position": position, "peak": "size_law"})
        data["stages"][0]["until"] = {"trigger": "efficiency", "min_tokens": "1k", "threshold": "published"}
        run = parse_run(data)
        (tmp_path / "again.yaml").write_text(dump_yaml(run.resolved()))
        assert load_run(tmp_path / "again.yaml") == run
