"""A run with each optimizer: its options, its groups, and a run that was cut off ends in the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from outgrow.data.needs import TextNeeds, model_config
from outgrow.engine.optimizers import build_optimizer, hidden_matrices, state_numbers
from outgrow.engine.step import Device, build_for_training, optimizer_step
from outgrow.errors import ConfigError, OutgrowError
from outgrow.run.optimizer_config import OPTIMIZERS, AdamWConfig, MuonConfig
from outgrow.run.run_file import parse_run
from outgrow.state.training_state import TrainingState
from outgrow.training import dry_run, loop, train_run

Tiny = Callable[..., dict[str, Any]]
RATES = {"adamw": 1e-2, "sgd": 0.3, "lion": 2e-3, "adafactor": 3e-2, "muon": 1e-2}
STAGES = [
    {"name": "small", "tokens": 64 * 5},
    {
        "name": "large",
        "tokens": 64 * 5,
        "grow": {
            "to": {
                "hidden_size": 24,
                "num_attention_heads": 3,
                "num_key_value_heads": 3,
                "num_hidden_layers": 2,
            }
        },
    },
]


def section(name: str) -> dict[str, Any]:
    return {"name": name, "learning_rate": RATES[name]}


class PowerCutError(Exception):
    """The process is gone."""


def bits(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_that_was_cut_off_ends_in_the_same_bits(
    name: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str) -> Any:
        return parse_run(tiny(output=str(tmp_path / folder), optimizer=section(name), stages=STAGES))

    result = train_run(run("whole"), progress=False)
    losses = [stage.final_loss for stage in result.stages]
    assert losses[0] is not None
    assert losses[1] is not None
    assert losses[1] < losses[0] < 5.7  # 300 tokens: ln 300 = 5.7
    for cut in (4, 9):  # after the checkpoints of steps 3 and 8, one in each stage

        def until(*arguments: Any, cut: int = cut, **options: Any) -> Any:
            if options["seed"][1] == cut:
                raise PowerCutError
            return optimizer_step(*arguments, **options)

        monkeypatch.setattr(loop, "optimizer_step", until)
        with pytest.raises(PowerCutError):
            train_run(run("cut"), progress=False)
    monkeypatch.undo()
    train_run(run("cut"), progress=False)
    whole = bits(tmp_path / "whole" / "final")
    assert len(whole) == 2  # weights and moments
    assert bits(tmp_path / "cut" / "final") == whole


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"name": "muno"}, ["unknown optimizer.name 'muno'", "did you mean muon"]),
        (
            {"name": "rmsprop"},
            ["unknown optimizer.name 'rmsprop'", "known: adafactor, adamw, lion, muon, sgd"],
        ),
        (
            {"name": "sgd", "betas": [0.9, 0.99]},
            ["optimizer.betas belongs to optimizer.name: adamw or lion or muon"],
        ),
        ({"name": "sgd", "momentun": 0.9}, ["unknown key optimizer.momentun", "did you mean momentum"]),
        ({"name": "sgd", "momentum": 0, "nesterov": True}, ["optimizer: nesterov needs a momentum"]),
        ({"momentum": 0.9}, ["optimizer.momentum belongs to optimizer.name: sgd or muon, and here is"]),
        ({"name": "lion", "eps": 1e-8}, ["optimizer.eps belongs to optimizer.name: adamw or muon"]),
        ({"name": "adafactor", "beta2_decay": 0.8}, ["optimizer.beta2_decay", "less than or equal to 0"]),
        ({"name": "muon", "momentum": 1.5}, ["optimizer.momentum", "less than 1"]),
        ({"name": 3}, ["unknown optimizer.name '3'"]),
        ("sgd", ["optimizer"]),
    ],
)
def test_wrong_options_are_named(section: Any, words: list[str], tiny: Tiny) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run(tiny(optimizer=section))
    for word in words:
        assert word in str(caught.value)


def test_the_default_is_adamw_and_is_written_down(tiny: Tiny) -> None:
    run = parse_run(tiny(optimizer={}))
    assert run.optimizer == AdamWConfig()
    assert run.resolved()["optimizer"]["name"] == "adamw"
    assert parse_run(run.resolved()) == run
    muon = parse_run(tiny(optimizer={"name": "muon"}))
    assert parse_run(muon.resolved()) == muon


def gpt2() -> dict[str, Any]:
    fields = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2}
    return model_config(fields, TextNeeds(30, 8, 0))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_decay_matrices_alone_and_the_numbers_are_counted(name: str) -> None:
    model = build_for_training(gpt2())
    config = parse_section({"name": name, "weight_decay": 0.3})
    optimizer = build_optimizer(model, config)
    decays = {one: group["weight_decay"] for group in optimizer.param_groups for one in group["param_names"]}
    assert decays == {one: 0.3 if value.ndim == 2 else 0.0 for one, value in model.named_parameters()}
    batch = torch.arange(8)[None], torch.arange(1, 9)[None]
    step = {"learning_rate": 1e-2, "micro_batch": 1, "clip": None, "seed": (0, 0)}
    optimizer_step(model, optimizer, batch, device=Device("cpu", False), **step)  # type: ignore[arg-type]
    held = [
        value.numel() for state in optimizer.state.values() for key, value in state.items() if key != "step"
    ]
    assert state_numbers(gpt2(), config) == sum(held) > 0


def parse_section(section: dict[str, Any]) -> Any:
    return OPTIMIZERS[section["name"]].model_validate(section)


def test_muon_has_the_matrices_inside_the_layers_and_adamw_the_rest() -> None:
    model = build_for_training(gpt2())
    optimizer = build_optimizer(model, MuonConfig(name="muon"))
    rules = {one: group["rule"] for group in optimizer.param_groups for one in group["param_names"]}
    assert {one for one, rule in rules.items() if rule == "Muon"} == hidden_matrices(gpt2())
    assert rules["transformer.wte.weight"] == rules["transformer.h.0.ln_1.weight"] == "AdamW"
    assert rules["transformer.h.1.mlp.c_fc.weight"] == "Muon"


def test_muon_beside_adamw_is_torchs_two_optimizers_and_reloads_as_torch_does() -> None:
    config = MuonConfig(name="muon", learning_rate=1e-2)
    one, other = build_for_training(gpt2()), build_for_training(gpt2())
    other.load_state_dict(one.state_dict())
    joint = build_optimizer(one, config)
    hidden = hidden_matrices(gpt2())
    named = dict(other.named_parameters())
    decay = {True: 0.1, False: 0.0}
    muon = torch.optim.Muon(
        [value for name, value in named.items() if name in hidden],
        lr=1e-2,
        weight_decay=0.1,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [
            {
                "params": [v for n, v in named.items() if n not in hidden and (v.ndim == 2) is big],
                "weight_decay": d,
            }
            for big, d in decay.items()
        ],
        lr=1e-2,
        betas=(0.9, 0.95),
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        for left, right in zip(one.parameters(), other.parameters(), strict=True):
            left.grad = torch.randn(left.shape, generator=generator)
            right.grad = left.grad.clone()
        joint.step()
        muon.step()
        adamw.step()
        if step == 1:  # through torch's own state_dict, which replaces groups and state
            again = build_optimizer(one, config)
            again.load_state_dict(joint.state_dict())
            joint = again
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_multipliers_scale_the_rate_and_keep_its_product_with_the_decay() -> None:
    model = build_for_training(gpt2())
    optimizer = build_optimizer(model, AdamWConfig(), {"transformer.wte.weight": 0.25})
    table = next(g for g in optimizer.param_groups if "transformer.wte.weight" in g["param_names"])
    assert table["param_names"] == ["transformer.wte.weight"]
    batch = torch.arange(8)[None], torch.arange(1, 9)[None]
    step = {"learning_rate": 8e-3, "micro_batch": 1, "clip": None, "seed": (0, 0)}
    optimizer_step(model, optimizer, batch, device=Device("cpu", False), **step)  # type: ignore[arg-type]
    assert table["lr"] == 2e-3
    assert table["weight_decay"] == 0.4
    assert {group["lr"] for group in optimizer.param_groups if group is not table} == {8e-3}


def test_a_run_does_not_take_over_another_optimizers_moments(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny(stages=STAGES[:1], optimizer=section("adamw"))
    train_run(parse_run(run), progress=False)
    final = tmp_path / "run" / "final"
    stages = [{"name": "on", "from": str(final), "tokens": 64}]
    more = tiny(model=None, output=str(tmp_path / "more"), stages=stages, optimizer=section("muon"))
    with pytest.raises(OutgrowError, match=r"stages\.0\.from: the state was trained with AdamW"):
        train_run(parse_run(more), progress=False)
    assert not (tmp_path / "more").exists()
    state = TrainingState.from_pretrained(final)
    bare = state.save_pretrained(tmp_path / "bare", format="hub")
    more["stages"][0]["from"] = str(bare)
    train_run(parse_run(more), progress=False)
    assert TrainingState.from_pretrained(tmp_path / "more" / "final").source.names("momentum_buffer")


def test_a_dry_run_counts_what_the_optimizer_keeps(tiny: Tiny) -> None:
    stages = {name: dry_run(parse_run(tiny(optimizer={"name": name}))).stages[0] for name in OPTIMIZERS}
    parameters = stages["adamw"].parameters
    assert stages["adamw"].checkpoint_bytes == 12 * parameters
    assert stages["sgd"].checkpoint_bytes == stages["lion"].checkpoint_bytes == 8 * parameters
    assert 4 * parameters < stages["adafactor"].checkpoint_bytes < 5 * parameters
    assert 8 * parameters < stages["muon"].checkpoint_bytes < 12 * parameters
