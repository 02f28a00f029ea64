"""Every optimizer's state: live, saved, read, grown, loaded and trained on, in the native format and as Trainer has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_gpt2, tiny_llama, train, two_groups
from transformers import Trainer, TrainingArguments
from transformers.optimization import Adafactor

from outgrow.algebra.slots import MOMENTS, SLOTS
from outgrow.engine.optimizers import Lion, build_optimizer
from outgrow.errors import CheckpointError
from outgrow.proof.verify import verify
from outgrow.run.optimizer_config import MuonConfig
from outgrow.state.growing import grow
from outgrow.state.training_state import TrainingState
from outgrow.store.contents import OptimizerInfo
from outgrow.store.source import MemorySource

Make = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda model: torch.optim.SGD(two_groups(model), lr=0.1, momentum=0.9, nesterov=True),
    "SGD, no momentum": lambda model: torch.optim.SGD(two_groups(model), lr=0.1),
    "Lion": lambda model: Lion(two_groups(model), lr=1e-3),
    "Adafactor": lambda model: torch.optim.Adafactor(two_groups(model), lr=1e-2),
    "transformers.Adafactor": lambda model: Adafactor(two_groups(model)),
    "transformers.Adafactor, beta1": lambda model: Adafactor(
        two_groups(model), lr=1e-3, beta1=0.9, relative_step=False
    ),
    "MuonAdamW": lambda model: build_optimizer(model, MuonConfig(name="muon", learning_rate=1e-2)),
}
SLOTS_OF = {
    "SGD": {"momentum_buffer"},
    "SGD, no momentum": set(),
    "Lion": {"exp_avg"},
    "Adafactor": {"row_var", "col_var", "variance"},
    "transformers.Adafactor": {"exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"},
    "transformers.Adafactor, beta1": {"exp_avg", "exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"},
    "MuonAdamW": {"momentum_buffer", "exp_avg", "exp_avg_sq"},
}
COUNTED = {"Adafactor", "transformers.Adafactor", "transformers.Adafactor, beta1"}
TO = {"hidden_size": 18, "num_attention_heads": 6, "num_key_value_heads": 3, "num_hidden_layers": 3}


def assert_same(one: TrainingState, other: TrainingState) -> None:
    """Equal names, shapes and bits in every slot."""
    for slot in SLOTS:
        assert set(one.source.names(slot)) == set(other.source.names(slot)), slot
        for name in one.source.names(slot):
            assert torch.equal(one.source.read(name, slot), other.source.read(name, slot)), (slot, name)


def trained(kind: str, model: Any = None) -> tuple[Any, torch.optim.Optimizer, TrainingState]:
    model = model or tiny_llama()
    optimizer = OPTIMIZERS[kind](model)
    train(model, optimizer, 2)
    return model, optimizer, TrainingState.from_model(model, optimizer)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_from_a_saved_state_as_if_nothing_had_been(kind: str, tmp_path: Path) -> None:
    for make in (tiny_llama, tiny_gpt2):
        model, optimizer, state = trained(kind, make())
        assert {slot for slot in MOMENTS if state.source.names(slot)} == SLOTS_OF[kind]
        assert set(state.steps.values()) == ({2.0} if kind in COUNTED | {"MuonAdamW"} else set())
        path = state.save_pretrained(tmp_path / make.__name__)
        back = TrainingState.from_pretrained(path)
        assert_same(state, back)
        assert (back.steps, back.optimizer) == (state.steps, state.optimizer)
        other = make()
        other_optimizer = OPTIMIZERS[kind](other)
        back.load_into(other, other_optimizer)
        for each, its_optimizer in ((model, optimizer), (other, other_optimizer)):
            torch.manual_seed(5)  # dropout
            train(each, its_optimizer, 2, seed=7)
        assert_same(
            TrainingState.from_model(model, optimizer), TrainingState.from_model(other, other_optimizer)
        )


@pytest.mark.parametrize("moments", ["transport", "keep_zero", "copy", "reset"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_grown_state_is_saved_and_trained_on(kind: str, moments: Any, tmp_path: Path) -> None:
    _, _, state = trained(kind)
    grown = grow(state, to=TO, depth="identity", moments=moments)
    path = grown.save_pretrained(tmp_path / "grown")
    back = TrainingState.from_pretrained(path)
    assert_same(grown, back)
    expected = set() if moments == "reset" else SLOTS_OF[kind]
    assert {slot for slot in MOMENTS if back.source.names(slot)} == expected
    model = tiny_llama(**TO)
    optimizer = OPTIMIZERS[kind](model)
    back.load_into(model, optimizer)
    assert_same(TrainingState.from_model(model, optimizer), back)
    train(model, optimizer, 1)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_before_the_first_step_there_is_an_optimizer_and_no_moments(tmp_path: Path) -> None:
    for number, make in enumerate(OPTIMIZERS.values()):
        model = tiny_llama()
        optimizer = make(model)
        state = TrainingState.from_model(model, optimizer)
        back = TrainingState.from_pretrained(state.save_pretrained(tmp_path / str(number)))
        assert back.optimizer == state.optimizer
        assert not any(back.source.names(slot) for slot in MOMENTS)
        train(model, optimizer, 1)
        back.load_into(model, optimizer)
        assert not any(optimizer.state.get(parameter) for parameter in model.parameters())


def test_parameters_without_gradient_start_as_the_optimizer_would() -> None:
    for kind, make in OPTIMIZERS.items():
        model = tiny_llama()
        optimizer = make(model)
        for name, parameter in model.named_parameters():
            if "layers.0" in name:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        state = TrainingState.from_model(model, optimizer)
        other = tiny_llama(seed=3)
        other_optimizer = make(other)
        state.load_into(other, other_optimizer)
        assert_same(TrainingState.from_model(other, other_optimizer), state)
        embedding = "model.embed_tokens.weight"
        for slot in SLOTS_OF[kind]:
            if embedding in state.source.names(slot):
                assert not state.source.read(embedding, slot).any()


def test_a_proof_leaves_out_what_is_adams_alone() -> None:
    batches = [{"input_ids": torch.arange(3, 12)[None], "labels": torch.arange(3, 12)[None]}]
    for kind in ("MuonAdamW", "Adafactor"):
        _, _, state = trained(kind)
        report = verify(state, grow(state, to=TO, depth="identity", noise=0.0), batches, steps=2)
        assert report.function_kept
        assert set(report.moment_norms) == SLOTS_OF[kind]
        assert all(small > 0 and large > 0 for small, large in report.moment_norms.values())
        assert not report.first_update


# ---- what does not fit ----------------------------------------------------------------------------------------------


def test_an_optimizer_that_is_not_known_is_named() -> None:
    model = tiny_llama()
    for optimizer, words in (
        (torch.optim.RMSprop(model.parameters()), "does not know the optimizer 'RMSprop'"),
        (torch.optim.NAdam(model.parameters()), r"'NAdam'(.|\n)*did you mean Adam"),
        (torch.optim.RAdam(model.parameters()), "'RAdam'"),
        (torch.optim.AdamW(model.parameters(), amsgrad=True), "does not carry amsgrad"),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            TrainingState.from_model(model, optimizer)
        assert "outgrow carries the state of AdamW, Adam, SGD, Lion, Muon" in str(caught.value)


def test_a_class_is_known_by_its_package_too() -> None:
    """bitsandbytes calls its 8-bit optimizer AdamW; a subclass of torch's is torch's."""
    model = tiny_llama()
    theirs = type("AdamW", (torch.optim.Optimizer,), {"__module__": "bitsandbytes.optim.adamw"})
    with pytest.raises(CheckpointError, match="does not know the optimizer 'AdamW'"):
        TrainingState.from_model(model, theirs(model.parameters(), {"lr": 1.0, "betas": (0.9, 0.9)}))
    mine = type("Mine", (torch.optim.AdamW,), {})
    info = TrainingState.from_model(model, mine(model.parameters())).optimizer
    assert info is not None
    assert info.name == "AdamW"


def test_a_state_is_loaded_into_its_own_optimizer_alone() -> None:
    model, _, state = trained("SGD")
    before = [parameter.clone() for parameter in model.parameters()]
    for make, words in (
        (OPTIMIZERS["MuonAdamW"], "trained with SGD, this optimizer is (Muon|AdamW)"),
        (OPTIMIZERS["Lion"], "trained with SGD, this optimizer is Lion"),
        (
            OPTIMIZERS["SGD, no momentum"],
            r"got: +SGD, which keeps no moments of .*\n.*SGD, of which .* momentum_buffer",
        ),
    ):
        with pytest.raises(CheckpointError, match=words):
            state.load_into(model, make(model))
    with pytest.raises(
        CheckpointError, match=r"trained with Adafactor, this optimizer is transformers\.Adafactor"
    ):
        trained("Adafactor")[2].load_into(model, OPTIMIZERS["transformers.Adafactor"](model))
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_states_that_lack_or_mix_slots_are_refused(tmp_path: Path) -> None:
    _, _, state = trained("Adafactor")
    assert state.optimizer is not None
    tensors = {
        slot: {name: state.source.read(name, slot) for name in state.source.names(slot)} for slot in SLOTS
    }
    name = "model.embed_tokens.weight"
    lacking = {
        slot: {n: t for n, t in found.items() if slot != "col_var" or n != name}
        for slot, found in tensors.items()
    }
    turned = {**tensors, "row_var": {n: t.T for n, t in tensors["row_var"].items()}}
    for wrong, message in (
        (replace(state, source=MemorySource(lacking)), f"col_var tensors are not(.|\n)*{name}"),
        (replace(state, source=MemorySource(turned)), "row_var of .* has the wrong shape"),
        (replace(state, optimizer=OptimizerInfo("SGD", state.optimizer.groups)), "variance tensors are not"),
        (replace(state, optimizer=OptimizerInfo("Sophia", state.optimizer.groups)), "optimizer 'Sophia'"),
        (replace(state, steps={}), "number of steps"),
    ):
        with pytest.raises(CheckpointError, match=message):
            wrong.save_pretrained(tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"row_var of .* has a wrong shape"):
        grow(replace(state, source=MemorySource(turned)), to=TO)
    assert list(tmp_path.iterdir()) == []


# ---- Trainer --------------------------------------------------------------------------------------------------------

ROWS = [
    {"input_ids": row, "labels": row}
    for row in torch.randint(3, 19, (32, 7), generator=torch.Generator().manual_seed(0)).tolist()
]


def trainer(folder: Path, steps: int, *, optim: str | None = None, make: Make | None = None) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        save_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **({"optim": optim} if optim else {}),
    )
    model = tiny_llama(seed=steps)
    chosen = (make(model), None) if make else (None, None)
    return Trainer(model, arguments, train_dataset=ROWS, optimizers=chosen)  # type: ignore[arg-type]


KINDS: dict[str, dict[str, Any]] = {
    "transformers.Adafactor": {"optim": "adafactor"},
    "SGD, no momentum": {"optim": "sgd"},
    "SGD": {"make": lambda model: torch.optim.SGD(two_groups(model), lr=1e-2, momentum=0.9)},
    "Adafactor": {"make": lambda model: torch.optim.Adafactor(two_groups(model), lr=1e-2)},
    "Lion": {"make": lambda model: Lion(two_groups(model), lr=1e-3)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_trainer_continues_what_is_written(kind: str, tmp_path: Path) -> None:
    trainer(tmp_path / "run", 4, **KINDS[kind]).train()
    state = TrainingState.from_pretrained(tmp_path / "run" / "checkpoint-2")
    assert state.optimizer is not None
    assert state.optimizer.name == kind.split(",")[0]
    assert {slot for slot in MOMENTS if state.source.names(slot)} == SLOTS_OF[kind]
    native = TrainingState.from_pretrained(state.save_pretrained(tmp_path / "native"))
    assert json.loads((tmp_path / "native" / "outgrow.json").read_text())["step"] == 2
    assert_same(native, state)
    written = native.save_pretrained(tmp_path / "again" / "checkpoint-2", format="trainer")
    assert_same(TrainingState.from_pretrained(written), state)
    resumed = trainer(tmp_path / "again", 4, **KINDS[kind])
    resumed.train(resume_from_checkpoint=str(written))
    assert_same(
        TrainingState.from_pretrained(tmp_path / "run" / "checkpoint-4"),
        TrainingState.from_pretrained(tmp_path / "again" / "checkpoint-4"),
    )


def test_muon_beside_adamw_is_no_trainer_checkpoint(tmp_path: Path) -> None:
    _, _, state = trained("MuonAdamW")
    with pytest.raises(CheckpointError, match="cannot be written as a Trainer checkpoint"):
        state.save_pretrained(tmp_path / "out", format="trainer")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adamw")
    trainer(folder, 2).train()
    return folder / "checkpoint-2"


def _bitsandbytes(content: Any) -> None:
    """What its 8-bit AdamW keeps: the groups look like Adam's without amsgrad, the state does not."""
    for group in content["param_groups"]:
        group.pop("amsgrad")
        group.update(alpha=0.0, t_alpha=None, t_beta3=None)
    for entry in content["state"].values():
        entry.update(state1=entry.pop("exp_avg"), state2=entry.pop("exp_avg_sq"), qmap1=torch.zeros(256))


def _rmsprop(content: Any) -> None:
    for group in content["param_groups"]:
        keep = {"params": group["params"], "lr": group["lr"], "alpha": 0.99, "eps": 1e-8, "centered": False}
        group.clear()
        group.update(keep)


def _quantised(content: Any) -> None:
    for entry in content["state"].values():
        entry["state1"] = entry.pop("exp_avg")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_bitsandbytes, "not the state of an optimizer that outgrow knows"),
        (_rmsprop, "not the state of an optimizer that outgrow knows"),
        (_quantised, "has other state than AdamW's"),
        (lambda c: c["param_groups"][0].update(amsgrad=True), "does not carry amsgrad"),
        (lambda c: c["param_groups"][0].update(rule="Sophia"), "does not know the optimizer 'Sophia'"),
    ],
)
def test_a_checkpoint_of_another_optimizer_is_refused(
    checkpoint: Path, tmp_path: Path, change: Any, words: str
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    for name in ("config.json", "model.safetensors"):
        (small / name).write_bytes((checkpoint / name).read_bytes())
    content = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    change(content)
    torch.save(content, small / "optimizer.pt")
    state = TrainingState.from_pretrained(small)
    with pytest.raises(CheckpointError, match=words) as caught:
        state.save_pretrained(tmp_path / "out")
    assert "outgrow carries the state of AdamW, Adam, SGD, Lion, Muon, Adafactor" in str(caught.value)
