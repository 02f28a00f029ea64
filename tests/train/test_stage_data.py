"""Stages with a batch and a length of their own: one order of tokens, exact resume, honest counts, and mistakes told first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import outgrow.training.loop as loop
from outgrow.cost.flops import training_flops
from outgrow.cost.memory import training_memory
from outgrow.errors import ConfigError
from outgrow.report.run import run_report
from outgrow.run.run_file import parse_run
from outgrow.training import dry_run, scratch, train_run
from outgrow.training.course import planned
from outgrow.training.preflight import check_ranks, preflight
from outgrow.training.rates import stage_rates
from train.test_loop import bits, rows_without_times

Tiny = Callable[..., dict[str, Any]]
LARGE = {
    "to": {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 3, "num_hidden_layers": 2}
}


def own(length: int | None = None, **batch: int) -> dict[str, Any]:
    """The keys of a stage with a length and a batch of its own."""
    return ({"data": {"sequence_length": length}} if length else {}) | ({"batch": batch} if batch else {})


def compound(tiny: Tiny, **replace: Any) -> dict[str, Any]:
    """8 sequences of 8 tokens, then grown, 6 of 32, then the run's own 4 of 16: steps of 64, 192 and 64 tokens."""
    stages = [
        {"name": "short", "tokens": 64 * 9, **own(8, sequences=8)},
        {"name": "long", "tokens": 192 * 4, "grow": LARGE, **own(32, sequences=6, micro_batch=3)},
        {"name": "usual", "tokens": 64 * 5},
    ]
    return tiny(stages=stages) | replace


def watched(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """What the steps of a run are given from now on; before step number `fail_at` of them the process dies."""
    seen: list[tuple[Tensor, Tensor]] = []
    real = loop.optimizer_step

    def step(model: Any, optimizer: Any, batch: tuple[Tensor, Tensor], **others: Any) -> Any:
        if len(seen) == fail_at:
            raise KeyboardInterrupt
        seen.append(batch)
        return real(model, optimizer, batch, **others)

    monkeypatch.setattr(loop, "optimizer_step", step)
    return seen


def order(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[list[torch.Size], Tensor, Tensor]:
    """Shapes of a run's batches, and all their inputs and targets in a row."""
    with monkeypatch.context() as patch:
        seen = watched(patch)
        train_run(parse_run(run), progress=False)
    inputs, targets = (torch.cat([one[place].flatten() for one in seen]) for place in (0, 1))
    return [one[0].shape for one in seen], inputs, targets


def test_the_order_of_tokens_is_a_function_of_tokens_alone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, inputs, targets = order(compound(tiny), monkeypatch)
    assert shapes == [torch.Size([8, 8])] * 9 + [torch.Size([6, 32])] * 4 + [torch.Size([4, 16])] * 5
    data = {**tiny()["data"], "sequence_length": 32}
    for sequences in (2, 13):  # two batches, neither of them of the stages, over more than all their tokens
        tokens = -(-len(inputs) // (32 * sequences)) * 32 * sequences
        stages = [{"name": "one", "tokens": tokens}]
        plain = tiny(output=str(tmp_path / f"plain-{sequences}"), stages=stages, data=data)
        _, expected, following = order({**plain, "batch": {"sequences": sequences}}, monkeypatch)
        assert torch.equal(inputs, expected[: len(inputs)])
        assert torch.equal(targets, following[: len(targets)])


def test_skipped_steps_are_tokens(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole, _ = order(compound(tiny), monkeypatch)
    data = {**tiny()["data"], "skip_steps": 3}
    _, later, _ = order(compound(tiny, data=data, output=str(tmp_path / "later")), monkeypatch)
    skipped = 3 * 4 * 16  # steps of the run's own batch and length
    assert torch.equal(later[: len(whole) - skipped], whole[skipped:])


@pytest.mark.parametrize("kind", ["llama", "eurobert"])
def test_a_killed_run_has_the_same_bits_over_its_boundaries(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = {**tiny()["model"], "model_type": kind}
    train_run(parse_run(compound(tiny, model=model, output=str(tmp_path / "whole"))), progress=False)
    run = parse_run(compound(tiny, model=model, output=str(tmp_path / "killed")))

    def leave(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_leave", leave)  # after the short stage's last step, before the next is entered
        with pytest.raises(KeyboardInterrupt):
            train_run(run, progress=False)
    for steps in (0, 2, 4):  # the grown state alone; inside the long stage; at the begin of the last
        with monkeypatch.context() as patch:
            watched(patch, fail_at=steps)
            with pytest.raises(KeyboardInterrupt):
                train_run(run, progress=False)
    train_run(run, progress=False)
    assert bits(tmp_path / "killed" / "final") == bits(tmp_path / "whole" / "final")
    assert rows_without_times(tmp_path / "killed") == rows_without_times(tmp_path / "whole")


def test_rows_count_tokens_and_validation_is_the_same(tiny: Tiny, tmp_path: Path) -> None:
    run = parse_run(compound(tiny))
    assert run.total_tokens == 64 * 9 + 192 * 4 + 64 * 5
    assert run.total_steps == 18
    result = train_run(run, progress=False)
    rows = rows_without_times(tmp_path / "run")
    ends = {row["stage"]: (row["step"], row["tokens"]) for row in rows if row["kind"] == "train"}
    assert ends == {"short": (9, 576), "long": (13, 1344), "usual": (18, 1664)}
    seen = [row["tokens"] for row in rows if row["kind"] == "validation"]
    # Every 256 tokens, at the first step that has passed them, and at the end of each stage.
    assert seen == [256, 512, 576, 768, 1152, 1344, 1536, 1664]
    opened = [row for row in rows if row["kind"] == "stage"]
    read = [(row["sequences"], row["sequence_length"], row["validation_length"]) for row in opened]
    assert read == [(8, 8, 16), (6, 32, 16), (4, 16, 16)]
    note = "short 8 x 8, long 6 x 32, usual 4 x 16; every stage is validated on sequences of 16 tokens"
    assert note in str(result.table().note)
    assert note in run_report(tmp_path / "run").html.read_text()


def test_costs_are_those_of_a_stages_own_length_and_batch(tiny: Tiny) -> None:
    run = parse_run(compound(tiny))
    plans = preflight(run).stages
    dry = dry_run(run)
    for place, (length, at_once, tokens) in enumerate([(8, 2, 576), (32, 3, 768), (16, 2, 320)]):
        config = plans[place].config
        assert plans[place].flops == tokens * training_flops(config, length)[1]
        assert dry.stages[place].tokens == tokens
        own_memory, others = (
            training_memory(
                config,
                sequences=at_once,
                sequence_length=one,
            ).total
            for one in (length, 16)
        )
        assert (
            dry.stages[place].memory_bytes == own_memory
        )  # AdamW's two moments are what it takes by default
        assert (own_memory == others) == (length == 16)
    assert [rates.tokens for rates in stage_rates(run, plans)] == [(0, 576), (576, 1344), (1344, 1664)]


def test_the_learning_rate_is_one_of_tokens(tiny: Tiny) -> None:
    """A step's rate is the schedule's at its middle token, however many tokens steps have."""
    run = parse_run(compound(tiny, stages=[{**one, "grow": None} for one in compound(tiny)["stages"]]))
    for course in planned(run, preflight(run).stages):
        for step in range(course.now.first, course.last_step):
            middle = course.tokens(step) + course.own.tokens_per_step / 2
            expected = run.optimizer.learning_rate * run.schedule.factor(middle, run.total_tokens)
            assert course.learning_rate(step) == pytest.approx(expected, rel=1e-12)


def test_the_twin_from_scratch_reads_as_the_last_stage(tiny: Tiny, tmp_path: Path) -> None:
    stages = compound(tiny)["stages"][:2]
    run = parse_run(compound(tiny, stages=stages))
    result = train_run(run, progress=False)
    twin = scratch.scratch_twin(run, result, str(tmp_path / "twin"))
    assert twin.at(0).batch == run.at(1).batch
    assert twin.at(0).data == run.at(1).data
    flops = sum(stage.flops for stage in result.stages)
    step = 192 * training_flops(preflight(twin).stages[0].config, 32)[1]
    assert abs(preflight(twin).stages[0].flops - flops) <= step / 2


def test_a_probe_and_a_fit_read_the_stages_own_batches(tiny: Tiny, tmp_path: Path) -> None:
    probe = {"steps": 2, "candidates": [{"depth": "stack"}, {"depth": "identity"}]}
    fit = {"method": "ligo", "steps": 2}
    for name, grow in (("probe", {**LARGE, "probe": probe}), ("learn", {**LARGE, "learn": fit})):
        short, long, _ = compound(tiny)["stages"]
        run = parse_run(compound(tiny, stages=[short, {**long, "grow": grow}], output=str(tmp_path / name)))
        plan = preflight(run).stages[1]
        if name == "probe":  # 2 candidates x 2 steps of 192 tokens
            assert plan.probe_flops == 4 * 192 * training_flops(plan.config, 32)[1]
        else:  # 2 steps of 3 x 32 tokens, and the making of the weights
            assert plan.probe_flops > 2 * 96 * training_flops(plan.config, 32)[1]
        assert train_run(run, progress=False).stages[1].final_loss is not None


def test_positions_grow_with_the_length(tiny: Tiny) -> None:
    model = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    stages = [
        {"name": "short", "tokens": 64 * 2, **own(8, sequences=8)},
        {"name": "long", "tokens": 64 * 2, **own(32, sequences=2)},
    ]
    for stage, way_out in ((0, r"model\.n_positions: 32"), (1, r"stages\.1\.grow\.to\.n_positions: 32")):
        short, long = own(8, sequences=8), own(32, sequences=2)
        tried = [{**one, **(long if place == stage else short)} for place, one in enumerate(stages)]
        says = rf"stages\.{stage}\.data\.sequence_length is longer than the model's positions(.|\n)*{way_out}"
        with pytest.raises(ConfigError, match=says):
            preflight(parse_run(tiny(model=model, stages=tried)))
    stages[1]["grow"] = {"to": {"n_positions": 32}}
    result = train_run(parse_run(tiny(model=model, stages=stages)), progress=False)
    assert result.stages[1].loss_after_growth == pytest.approx(
        result.stages[1].loss_before_growth, rel=1e-5
    )  # positions are added behind those that validation reads; only the order of sums in the head may change


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {"tokens": 1000, **own(8, sequences=8)},
            "tokens 1,000 is no whole number of steps of 8 x 8 = 64 tokens: give 960 or 1,024",
        ),
        ({"tokens": 40, **own(sequences=3, micro_batch=1)}, "3 x 16 = 48 tokens: give 48"),
        ({"tokens": 96 * 4, **own(12, sequences=8)}, "sequences of 12 tokens do not divide the longest ones"),
        ({"tokens": 80, **own(8, sequences=1, micro_batch=1)}, "give sequences a multiple of 2"),
        ({"tokens": 160, **own(sequences=5)}, "micro_batch 2 does not divide sequences 5"),
        ({"tokens": 2**23, **own(sequences=2**18, micro_batch=2**18)}, "micro_batch of at most 131072"),
        ({"tokens": 64, "batch": {"sequence": 4}}, "unknown key stages.0.batch.sequence"),
        ({"tokens": 64, "data": {"source": "other"}}, "unknown key stages.0.data.source"),
    ],
)
def test_mistakes(tiny: Tiny, stage: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as told:
        parse_run(tiny(stages=[{"name": "first", **stage}, {"name": "second", "tokens": 64}]))
    assert message in str(told.value)


def test_skipped_steps_that_cut_a_sequence(tiny: Tiny) -> None:
    data = {**tiny()["data"], "skip_steps": 1}
    stages = [
        {"name": "first", "tokens": 2**12, **own(128, sequences=2)},
        {"name": "second", "tokens": 64 * 2},
    ]
    stages[1] |= own(128, sequences=1, micro_batch=1)
    with pytest.raises(ConfigError, match=r"data\.skip_steps: 64 tokens are no whole number"):
        parse_run(tiny(data=data, stages=stages))


def test_ranks_share_every_stages_batch(tiny: Tiny) -> None:
    stages = [{"name": "first", "tokens": 64}, {"name": "second", "tokens": 96, **own(sequences=6)}]
    check_ranks(parse_run(tiny(stages=stages[:1])), 2)
    with pytest.raises(
        ConfigError, match=r"(?s)stages\.1\.batch: 2 ranks cannot share .*micro_batch one of 1, 3"
    ):
        check_ranks(parse_run(tiny(stages=stages)), 2)


def test_another_length_is_another_run(tiny: Tiny) -> None:
    train_run(parse_run(tiny(stages=[{"name": "only", "tokens": 192}])), progress=False)
    with pytest.raises(ConfigError, match="another configuration"):
        train_run(
            parse_run(tiny(stages=[{"name": "only", "tokens": 192, **own(8, sequences=8)}])), progress=False
        )
