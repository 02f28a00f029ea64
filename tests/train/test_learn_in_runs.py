"""Learned operators in staged runs: applied from a folder, fitted where a stage begins, counted, and killed without harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outgrow import TrainingState, verify
from outgrow.cost.flops import training_flops
from outgrow.data.windows import TrainingData
from outgrow.engine.treatment import make_treatment
from outgrow.errors import OutgrowError
from outgrow.learning.fit import fit_step
from outgrow.learning.learn import fit_operator
from outgrow.learning.lesa import learn_lesa
from outgrow.models.architecture import resolve
from outgrow.run.learn_options import LearnOptions, LesaOptions
from outgrow.run.run_file import parse_run
from outgrow.state.operator_file import load_operator, save_operator
from outgrow.training import dry_run, train_run
from outgrow.training.scratch import scratch_twin
from train.test_loop import Tiny, bits, rows_without_times

LEARN = {"steps": 4, "learning_rate": 3e-3}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The log without what is measured by the clock."""
    found = rows_without_times(folder)
    return [{key: value for key, value in row.items() if key != "fit_seconds"} for row in found]


def learning(tiny: Tiny, output: Path, **learn_: Any) -> dict[str, Any]:
    run = tiny(output=str(output))
    run["stages"][1]["grow"]["learn"] = {**LEARN, **learn_}
    return run


def test_the_fit_sees_the_batches_that_training_reads_next(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first half of each, where a micro-batch is half a batch (docs/explanation/learned.md)."""
    read, whole, checked = list[tuple[int, int, torch.Tensor]](), TrainingData.batch, list[int]()

    def recorded(data: TrainingData, seed: int, step: int, sequences: int, **more: Any) -> Any:
        found = whole(data, seed, step, sequences, **more)
        read.append((step, sequences, found[0]))
        return found

    def spied(state: Any, to: Any, batch: Callable[[int], Any], *rest: Any, **more: Any) -> Any:
        for place in range(4):
            tokens = batch(place)["input_ids"]
            step, sequences, inputs = read[-1]
            assert (step, sequences) == (12 + place, 4)
            assert torch.equal(tokens[:, : inputs.shape[1]], inputs[:2])
            checked.append(place)
        return fit_operator(state, to, batch, *rest, **more)

    monkeypatch.setattr(TrainingData, "batch", recorded)
    monkeypatch.setattr("outgrow.training.learn_stage.fit_operator", spied)
    train_run(parse_run(learning(tiny, tmp_path / "run")), progress=False)
    assert checked == [0, 1, 2, 3]


def test_an_operator_is_fitted_on_the_runs_own_data(tiny: Tiny, tmp_path: Path) -> None:
    run = parse_run(learning(tiny, tmp_path / "run"))
    planned = dry_run(run).stages[1].flops
    result = train_run(run, progress=False)
    fit = next(row for row in rows(tmp_path / "run") if row["kind"] == "fit")
    assert len(fit["losses"]) == 4
    assert fit["loss_start"] == pytest.approx(fit["loss_small"], rel=1e-5)
    assert fit["step"] == 12
    growth = next(row for row in rows(tmp_path / "run") if row["kind"] == "growth")
    # The run's loss counts one target more for each sequence than that of the model's own forward.
    assert growth["loss_after"] == pytest.approx(fit["loss_end"], rel=0.05)

    plain = train_run(parse_run(tiny(output=str(tmp_path / "plain"))), progress=False)
    assert result.stages[1].flops == pytest.approx(plain.stages[1].flops + fit["fit_flops"])
    assert planned == pytest.approx(result.stages[1].flops)
    step = training_flops(
        resolve(TrainingState.from_pretrained(tmp_path / "run" / "final").config).config, 16
    )
    assert (
        1 < fit["fit_flops"] / (4 * 2 * 16 * step[1]) < 3
    )  # micro-batches of 2 x 16 tokens, and making the weights

    large = TrainingState.from_pretrained(tmp_path / "run" / "final")
    (entry,) = large.lineage
    assert entry["operators"][0]["flops"] == fit["fit_flops"]
    assert entry["moments"] == "reset"
    kept = tmp_path / "run" / "stages" / "2-large"
    assert load_operator(kept / "operator").digest == entry["growth"]["operator"]
    small = max((tmp_path / "run" / "stages" / "1-small").glob("step-*"))
    tokens = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": tokens, "labels": tokens}]
    states = (TrainingState.from_pretrained(folder) for folder in (small, kept / "grown"))
    assert verify(*states, batches, steps=1).matches_plan


def test_a_killed_fit_gives_the_same_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = (parse_run(learning(tiny, tmp_path / name)) for name in ("whole", "killed"))
    train_run(whole, progress=False)

    def killing(calls: int, real: Callable[..., Any]) -> Callable[..., Any]:
        left = [calls]

        def call(*words: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return real(*words, **named)

        return call

    for place, real, calls in (
        ("outgrow.learning.fit.fit_step", fit_step, 2),
        ("outgrow.training.learn_stage.save_operator", save_operator, 0),
        ("outgrow.training.loop.make_treatment", make_treatment, 1),  # 0: the first stage's, as it goes on
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, killing(calls, real))
            with pytest.raises(KeyboardInterrupt):
                train_run(killed, progress=False)
    train_run(killed, progress=False)
    assert bits(tmp_path / "killed" / "final") == bits(tmp_path / "whole" / "final")
    operator = Path("stages") / "2-large" / "operator"
    assert bits(tmp_path / "killed" / operator) == bits(tmp_path / "whole" / operator)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


@pytest.fixture
def operator(tiny: Tiny, tmp_path: Path) -> Path:
    """Fitted to the model that the tiny run trains first."""
    run = tiny(output=str(tmp_path / "first"))
    run["stages"] = run["stages"][:1]
    train_run(parse_run(run), progress=False)
    state = TrainingState.from_pretrained(tmp_path / "first" / "final")
    tokens = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": tokens, "labels": tokens}
    options = LearnOptions(steps=2)
    found, _ = fit_operator(state, {"intermediate_size": 40}, lambda step: batch, [batch], options)
    save_operator(found, tmp_path / "op")
    return tmp_path / "op"


def test_a_fitted_operator_between_stages(tiny: Tiny, tmp_path: Path, operator: Path) -> None:
    run = tiny(output=str(tmp_path / "run"))
    run["stages"][1]["grow"] = {"operator": str(operator)}
    result = train_run(parse_run(run), progress=False)
    final = TrainingState.from_pretrained(tmp_path / "run" / "final")
    assert final.config["intermediate_size"] == 40
    assert final.lineage[0]["growth"] == {"operator": load_operator(operator).digest, "moments": "reset"}
    assert result.stages[1].loss_after_growth is not None
    resolved = parse_run(parse_run(run).resolved())
    assert resolved.stages[1].grow == parse_run(run).stages[1].grow
    twin = scratch_twin(parse_run(run), result, str(tmp_path / "twin"))
    assert twin.model is not None
    assert {
        key: final.config[key] for key in twin.model
    } == twin.model  # the operator's sizes, which `grow.to` need not name

    for changes, grow, says in (
        ({}, {"to": {"intermediate_size": 48}}, "other sizes than intermediate_size=48"),
        ({}, {"width": "pad"}, "leave out width"),
        ({}, {"seed": 3, "noise": 0.0}, "leave out noise, seed"),
        ({}, {"learn": LEARN}, "one of probe, operator and learn"),
        ({}, {"operator": str(tmp_path / "none")}, "not a fitted operator"),
        ({"num_hidden_layers": 2}, {}, "number of layers"),
        ({"intermediate_size": 28}, {}, r"another source: 'model.layers.{L}.mlp.gate_proj.weight'"),
    ):
        wrong = tiny(output=str(tmp_path / "wrong"))
        wrong["model"] |= changes
        wrong["stages"][1]["grow"] = {"operator": str(operator), **grow}
        with pytest.raises(OutgrowError, match=says) as caught:
            train_run(parse_run(wrong), progress=False)
        assert "stages.1.grow" in str(caught.value)
        assert not (tmp_path / "wrong" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("learn", "says"),
    [
        ({"start": "published", "width": "pad"}, "ligo from start published has no use for width"),
        ({"rank": 2}, "ligo from start exact has no use for rank"),
        ({"method": "mango", "start": "published", "depth": "stack"}, "no use for depth"),
    ],
)
def test_what_a_fit_does_not_read_is_refused(
    tiny: Tiny, tmp_path: Path, learn: dict[str, Any], says: str
) -> None:
    with pytest.raises(OutgrowError, match=says):
        parse_run(learning(tiny, tmp_path, **learn))
    published = parse_run(learning(tiny, tmp_path, start="published"))
    assert parse_run(published.resolved()) == published


def test_predicted_layers_need_their_own_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny(output=str(tmp_path / "first"))
    run["model"]["num_hidden_layers"] = 3
    run["stages"] = [{"name": "small", "tokens": 64}]
    train_run(parse_run(run), progress=False)
    final = tmp_path / "first" / "final"
    predicted, _ = learn_lesa(
        TrainingState.from_pretrained(final), {"num_hidden_layers": 4}, LesaOptions(steps=2)
    )
    save_operator(predicted, tmp_path / "lesa")
    grow = {"operator": str(tmp_path / "lesa")}
    data = {key: value for key, value in run["data"].items() if key != "tokenizer"}
    stages = [{"name": "go", "from": str(final), "tokens": 64, "grow": grow}]
    train_run(
        parse_run(tiny(model=None, output=str(tmp_path / "more"), stages=stages, data=data)), progress=False
    )
    assert TrainingState.from_pretrained(tmp_path / "more" / "final").config["num_hidden_layers"] == 4
    later = {**run, "output": str(tmp_path / "wrong")}
    later["stages"] = [*run["stages"], {"name": "large", "tokens": 64, "grow": grow}]
    with pytest.raises(OutgrowError, match=r"stages\.1\.grow: a lesa operator holds layers"):
        train_run(parse_run(later), progress=False)

    learned = {"to": {"num_hidden_layers": 5}, "learn": {"method": "lesa", "steps": 2, "hidden": 4}}
    later["stages"] = [*run["stages"], {"name": "large", "tokens": 64, "grow": learned}]
    again = {**later, "output": str(tmp_path / "again")}
    for one in (later, again):
        train_run(parse_run(one), progress=False)
    assert bits(tmp_path / "wrong" / "final") == bits(tmp_path / "again" / "final")
    fit = next(row for row in rows(tmp_path / "wrong") if row["kind"] == "fit")
    assert fit["fit_flops"] > 0
    entry = TrainingState.from_pretrained(tmp_path / "wrong" / "final").lineage[-1]["operators"][0]
    assert (entry["operator"], entry["flops"]) == ("lesa", fit["fit_flops"])


def test_what_a_learned_growth_cannot_tell_apart(tiny: Tiny, tmp_path: Path) -> None:
    run = learning(tiny, tmp_path / "wrong")
    run["stages"][1]["freeze"] = {"what": "old", "tokens": 64}
    with pytest.raises(OutgrowError, match="mixtures of old ones"):
        train_run(parse_run(run), progress=False)


def test_images_and_masked_text(tiny: Tiny, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "images.npz",
        pixel_values=rng.normal(size=(30, 2, 6, 6)).astype(np.float32),
        labels=rng.integers(0, 5, 30),
    )
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    stages = [
        {"name": "small", "tokens": 64},
        {
            "name": "large",
            "tokens": 64,
            "grow": {"to": {"hidden_size": 32, "num_attention_heads": 4}, "learn": {"steps": 2}},
        },
    ]
    for model, data in (
        ({"model_type": "vit", "patch_size": 3}, {"images": str(tmp_path / "images.npz")}),
        ({"model_type": "bert"}, tiny()["data"]),
    ):
        output = tmp_path / model["model_type"]
        run = tiny(output=str(output), model={**model, **small}, data=data, stages=stages)
        train_run(parse_run(run), progress=False)
        fit = next(row for row in rows(output) if row["kind"] == "fit")
        assert fit["loss_start"] == pytest.approx(fit["loss_small"], rel=1e-4)


def test_mistakes_in_what_is_learned(tiny: Tiny, tmp_path: Path) -> None:
    for learn_, grow, says in (
        ({"warmup_steps": 4}, {}, "warmup_steps 4 must be fewer"),
        ({"start": "publishd"}, {}, "unknown start"),
        ({"method": "lgo"}, {}, "'ligo'"),
        ({"method": "mango"}, {}, "cannot begin"),
        ({"stepz": 1}, {}, "did you mean steps"),
        ({"method": "lesa"}, {}, "learning_rate"),
        ({}, {"depth": "identity"}, "learn.depth"),
        ({}, {"to": {}}, "at least one size"),
        ({}, {"to": {"hidden_size": 10}}, "hidden_size"),
        ({"depth": "stak"}, {}, "did you mean stack"),
    ):
        run = learning(tiny, tmp_path / "wrong", **learn_)
        run["stages"][1]["grow"] |= grow
        with pytest.raises(OutgrowError, match=says):
            train_run(parse_run(run), progress=False)
        assert not (tmp_path / "wrong" / "metrics.jsonl").exists()
