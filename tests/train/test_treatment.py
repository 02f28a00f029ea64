"""New entries with a learning rate of their own, and tensors that are left alone for a while."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from battery import zoo
from outgrow.cost.frozen_flops import frozen_training_flops
from outgrow.engine.boost import NewRegions
from outgrow.engine.freezing import frozen, frozen_names
from outgrow.engine.optimizers import build_optimizer
from outgrow.engine.step import Device, optimizer_step
from outgrow.errors import OutgrowError
from outgrow.growth.new_entries import NewEntries, new_entries
from outgrow.growth.plan import plan
from outgrow.methods.build import build
from outgrow.run.after_growth import FreezeConfig, NewEntriesConfig
from outgrow.run.optimizer_config import AdamWConfig
from outgrow.run.run_file import parse_run
from outgrow.training import loop, train_run
from outgrow.training.folder import read_metrics

Tiny = Callable[..., dict[str, Any]]
CPU = Device("cpu", False)
WIDER = {"hidden_size": 36, "num_attention_heads": 6, "num_key_value_heads": 3, "num_hidden_layers": 5}


def grown() -> tuple[nn.Module, dict[str, NewEntries]]:
    """A model of a grown size in float64, and which of its entries are new."""
    growth = plan(build(zoo.resolved("llama"), {**WIDER, "head_dim": 16}))
    return zoo.build(dict(growth.config)), new_entries(growth)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def steps(model: nn.Module, count: int, multiplier: float, entries: dict[str, NewEntries]) -> None:
    optimizer = build_optimizer(model, AdamWConfig(weight_decay=0.3))
    regions = NewRegions.of(model, entries)
    for step in range(count):
        optimizer_step(
            model,
            optimizer,
            (zoo.batch(step), zoo.batch(step).roll(-1, 1)),
            learning_rate=1e-2,
            micro_batch=3,
            clip=1.0,
            device=CPU,
            seed=(0, step),
            update=regions.boosted(multiplier),
        )


def test_a_boost_leaves_old_entries_alone() -> None:
    plain, entries = grown()
    boosted, _ = grown()
    start = weights(plain)
    steps(plain, 1, 1.0, entries)
    steps(boosted, 1, 1.5, entries)
    some_new = some_old = False
    for name, parameter in boosted.named_parameters():
        new, without = entries[name].mask(), dict(plain.named_parameters())[name]
        assert torch.equal(parameter[~new], without[~new]), name
        torch.testing.assert_close(
            parameter - start[name], torch.where(new, 1.5, 1.0) * (without - start[name])
        )
        some_new, some_old = some_new or bool(new.any()), some_old or bool((~new).any())
    assert some_new
    assert some_old


def test_a_boost_is_adamw_with_a_rate_per_entry() -> None:
    """Five steps against AdamW written out, with a tensor of learning rates and the decay's share of it."""
    boosted, entries = grown()
    steps(boosted, 5, 1.3, entries)
    oracle, _ = grown()
    first = {name: torch.zeros_like(parameter) for name, parameter in oracle.named_parameters()}
    second = {name: torch.zeros_like(parameter) for name, parameter in oracle.named_parameters()}
    for step in range(1, 6):
        tokens = zoo.batch(step - 1)
        oracle.zero_grad()
        logits = oracle(input_ids=tokens).logits.float()
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens.roll(-1, 1).flatten()).backward()
        norm = (
            torch.stack([p.grad.square().sum() for p in oracle.parameters() if p.grad is not None])
            .sum()
            .sqrt()
        )
        clip = min(1.0, 1.0 / (float(norm) + 1e-6))
        with torch.no_grad():
            for name, p in oracle.named_parameters():
                assert p.grad is not None
                gradient = p.grad * clip
                rate = torch.where(entries[name].mask(), 1.3e-2, 1e-2).double()
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.95 * second[name] + 0.05 * gradient**2
                decay = 0.3 if p.ndim >= 2 else 0.0
                direction = first[name] / (1 - 0.9**step) / ((second[name] / (1 - 0.95**step)).sqrt() + 1e-8)
                p.copy_(p - rate * decay * p - rate * direction)
    for name, parameter in boosted.named_parameters():
        # The losses go through float32, in another order of sums.
        torch.testing.assert_close(parameter, dict(oracle.named_parameters())[name], rtol=0, atol=1e-5)


def test_frozen_tensors_keep_weights_moments_and_steps() -> None:
    model, _ = grown()
    optimizer = build_optimizer(model, AdamWConfig())
    chosen = frozen_names(
        FreezeConfig(what=("model.layers.0.*", "*.mlp.*")), [name for name, _ in model.named_parameters()], {}
    )
    parameters = dict(model.named_parameters())
    options: dict[str, Any] = {"learning_rate": 1e-2, "micro_batch": 3, "clip": 1.0, "device": CPU}
    batch = (zoo.batch(), zoo.batch().roll(-1, 1))
    optimizer_step(model, optimizer, batch, seed=(0, 0), **options)
    before = weights(model)
    states = {
        name: {key: value.clone() for key, value in optimizer.state[p].items()}
        for name, p in parameters.items()
    }
    with frozen([parameters[name] for name in chosen]):
        optimizer_step(model, optimizer, batch, seed=(0, 1), **options)
    for name, parameter in parameters.items():
        assert parameter.requires_grad
        same = torch.equal(parameter, before[name])
        assert same == (name in chosen), name
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(value, states[name][key]) == (name in chosen), (name, key)


def test_llama_pro_trains_its_new_blocks_alone(tiny: Tiny, tmp_path: Path) -> None:
    """A stage that freezes what is old: the weights that its growth left are those at its end, but for new layers."""
    from outgrow.state.training_state import TrainingState

    run = tiny()
    run["stages"][1] |= {
        "grow": {"to": {"num_hidden_layers": 2}, "depth": "identity"},
        "freeze": {"what": "old"},
    }
    train_run(parse_run(run), progress=False)
    before = TrainingState.from_pretrained(tmp_path / "run" / "stages" / "2-large" / "grown")
    after = TrainingState.from_pretrained(tmp_path / "run" / "final")
    changed = {
        name
        for name in after.source.names("weight")
        if not torch.equal(after.source.read(name, "weight"), before.source.read(name, "weight"))
    }
    silent = {name for name in after.source.names("weight") if ".layers.1." in name}
    assert changed == silent
    assert {after.steps[name] for name in silent} == {12.0} | {before.steps[name] + 12.0 for name in silent}
    assert all(after.steps[name] == before.steps[name] for name in set(after.steps) - silent)


@pytest.mark.parametrize(
    ("what", "low", "high"),
    [
        (("*.mlp.*", "*norm.*"), 0.999, 1.001),
        (("model.embed_tokens.*", "model.layers.0.*", "model.layers.1.*"), 1.0, 1.06),  # q, k, v of layer 2
        (("model.*",), 0.999, 1.001),
    ],
)
def test_flops_of_a_frozen_part_agree_with_pytorch(what: tuple[str, ...], low: float, high: float) -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", **zoo.LLAMA)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    parameters = dict(model.named_parameters())
    names = frozen_names(FreezeConfig(what=what), tuple(parameters), {})
    with frozen([parameters[name] for name in names]), FlopCounterMode(display=False) as counter:
        model(zoo.batch(rows=2, columns=16)).logits.sum().backward()
    ours = frozen_training_flops(config.to_dict(), 16, names) * 2 * 16
    assert low <= ours / counter.get_total_flops() <= high


def test_a_frozen_span_costs_less(tiny: Tiny) -> None:
    run = tiny(stages=[{"name": "only", "tokens": 64 * 8}])
    whole = train_run(parse_run(run), progress=False).stages[0].flops
    run["stages"][0]["freeze"] = {"what": ["model.*"], "tokens": 64 * 3}
    run["output"] += "-frozen"
    some = parse_run(run)
    assert some.stages[0].freeze is not None
    assert [step for step in range(8) if some.stages[0].freeze.at(64 * (step + 0.5))] == [0, 1, 2]
    for tokens in (1, 31, 32, 33, 95, 96, 97, 10**6):
        freeze = FreezeConfig(what=("*",), tokens=tokens)
        assert freeze.steps(64, 8) == sum(freeze.at(64 * (step + 0.5)) for step in range(8)), tokens
    train_run(some, progress=False)
    rows = [row for row in read_metrics(Path(run["output"]) / "metrics.jsonl") if row["kind"] == "train"]
    spent = {row["step"]: row["flops"] for row in rows}
    cheap = spent[2] / 2
    assert cheap < whole / 8 * 0.75
    assert spent[8] == pytest.approx(3 * cheap + 5 * whole / 8)
    assert spent[8] - spent[6] == pytest.approx(2 * whole / 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"freeze": {"what": "old"}, "grow": None}, "need a growth in the same stage"),
        ({"new_entries": {"multiplier": 1.3}, "grow": None}, "need a growth in the same stage"),
        ({"freeze": {"what": "old"}}, "every tensor new entries"),
        ({"freeze": {"what": ["model.embed_token.*"]}}, r"stages\.1(.|\n)*matches no parameter"),
        ({"freeze": {"what": ["*"]}}, "nothing is left to train"),
        ({"freeze": {"wat": "old"}}, r"stages\.1\.freeze\.wat(.|\n)*what"),
        ({"new_entries": {"multiplier": 0}}, r"stages\.1\.new_entries\.multiplier"),
        ({"masks": {"rise_tokens": 5000}}, "more than the stage's tokens"),
    ],
)
def test_mistakes_are_found_before_any_work(
    change: dict[str, Any], words: str, tiny: Tiny, tmp_path: Path
) -> None:
    run = tiny()
    run["stages"][1] |= change
    with pytest.raises(OutgrowError, match=words):
        train_run(parse_run(run), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_boost_rises_and_falls() -> None:
    held = NewEntriesConfig(multiplier=1.3, rise_tokens=10)
    assert held.at(0) == 1.0
    assert held.at(5) == pytest.approx(1.15)
    assert held.at(10) == held.at(10**9) == 1.3
    assert NewEntriesConfig(multiplier=2.0).at(0) == 2.0


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def whole_and_killed(run: dict[str, Any], folder: Path, patch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The run undisturbed, and the run stopped at steps 4, 14 and 20 and started again each time."""
    train_run(parse_run({**run, "output": str(folder / "whole")}), progress=False)
    again = parse_run({**run, "output": str(folder / "killed")})
    for last in (4, 14, 20):
        with patch.context() as inner:
            inner.setattr(loop, "optimizer_step", _killed_after(last))
            with pytest.raises(Killed):
                train_run(again, progress=False)
    train_run(again, progress=False)
    return folder / "whole" / "final", folder / "killed" / "final"


def _killed_after(last: int) -> Callable[..., Any]:
    def step(*arguments: Any, **options: Any) -> Any:
        if options["seed"][1] >= last:
            raise Killed
        return optimizer_step(*arguments, **options)

    return step


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"new_entries": {"multiplier": 2.0, "rise_tokens": 256, "fall_tokens": 300}}),
        (
            {"freeze": {"what": ["model.layers.*"], "tokens": 64 * 5}},
            {
                "freeze": {"what": "old", "tokens": 64 * 7},
                "grow": {"to": {"num_hidden_layers": 2}, "depth": "stack"},
            },
        ),
        (
            {},
            {
                "masks": {"rise_tokens": 64 * 9},
                "grow": {"to": {"intermediate_size": 40, "num_hidden_layers": 2}, "width": "pad"},
            },
        ),
    ],
    ids=["boost", "freeze", "masks"],
)
def test_a_stopped_run_ends_in_the_same_bits(
    first: dict[str, Any], second: dict[str, Any], tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny()
    run["stages"][0] |= first
    run["stages"][1] |= second
    whole, killed = whole_and_killed(run, tmp_path, monkeypatch)
    files = sorted(path.name for path in whole.glob("*.safetensors"))
    assert len(files) >= 2  # weights and moments
    for name in files:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
