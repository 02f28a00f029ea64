"""Timing: every model in turns, kept, and measured again only where it must be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import outgrow.comparing.timing as timing
from compare.tiny import text_study
from outgrow.comparing import parse_study
from outgrow.comparing.check import check_study
from outgrow.comparing.steps import common_run
from outgrow.errors import ConfigError


def test_models_take_turns_and_are_measured_once(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = parse_study(text_study(corpus, tmp_path))
    run = common_run(study)
    plans = [plan for plans in check_study(study, lambda _: None).values() for plan in plans]
    models = timing.by_key([timing.Timed(plan.config, run) for plan in plans], run)
    assert len(models) == 2  # one layer and two, whatever operator grew it
    order: list[int] = []

    def turn(self: timing.Turn, steps: int) -> float:
        layers = int(self.model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
        order.append(layers)
        return (100.0 if len(order) <= 2 else 1.0 + len(order)) * layers * steps

    monkeypatch.setattr(timing.Turn, "take", turn)
    speeds = timing.study_speeds(models, run, study.timing, tmp_path)
    assert len(order) == 2 * 3  # a round to warm up and two
    assert order[:2] == order[2:4] == order[4:]
    per = {models[key].config["num_hidden_layers"]: value for key, value in speeds.items()}
    places = {layers: order.index(layers) for layers in order}  # 0 or 1
    for layers, place in places.items():  # the median of the rounds after the first
        expected = sum(1.0 + count + place for count in (3, 5)) / 2 * layers / run.tokens_per_step
        assert per[layers] == pytest.approx(expected)
    assert timing.study_speeds(models, run, study.timing, tmp_path) == speeds
    assert len(order) == 6
    more = {**models, "another": next(iter(models.values()))}
    timing.study_speeds(more, run, study.timing, tmp_path)
    assert len(order) == 6 + 3 * 3  # one model more: all again, in turns
    batch = run.batch.model_copy(update={"sequences": 8})
    timing.study_speeds(more, run.model_copy(update={"batch": batch}), study.timing, tmp_path)
    assert len(order) == 6 + 2 * 3 * 3  # another batch: all again
    content = json.loads((tmp_path / "timing.json").read_text())
    assert content["machine"]["processors"]
    speeds = [{**one, "seconds_per_token": 0.0} for one in content["models"]]
    for damaged in ("{}", "[]", "[" * 100_000, json.dumps({**content, "models": speeds})):
        (tmp_path / "timing.json").write_text(damaged)
        with pytest.raises(ConfigError, match="damaged"):
            timing.study_speeds(models, run, study.timing, tmp_path)


def test_a_grown_model_is_timed_with_its_equal_from_scratch() -> None:
    """Padding changes the eps of a norm; two timings of one speed would differ by noise and be read as a saving."""
    config = {"model_type": "llama", "hidden_size": 56, "rms_norm_eps": 1e-6}
    assert timing.model_key(config) == timing.model_key({**config, "rms_norm_eps": 5e-7})
    assert timing.model_key(config) != timing.model_key({**config, "hidden_size": 28})
