"""A real `transformers.Trainer`: what it writes is read, and what is written here it continues."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import assert_same_tensors, tiny_llama
from transformers import SchedulerType, Trainer, TrainerCallback, TrainingArguments

from outgrow.errors import CheckpointError
from outgrow.state.growing import grow
from outgrow.state.rescheduling import rescheduled
from outgrow.state.training_state import TrainingState
from outgrow.store.source import MemorySource

ROWS = [
    {"input_ids": row, "labels": row}
    for row in torch.randint(3, 19, (64, 7), generator=torch.Generator().manual_seed(0)).tolist()
]


def trainer(folder: Path, steps: int, model: Any = None) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        save_steps=3,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    return Trainer(model or tiny_llama(), arguments, train_dataset=ROWS)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps with a checkpoint at the third and the last."""
    folder = tmp_path_factory.mktemp("run")
    trainer(folder, 6).train()
    return folder


def test_reads_a_checkpoint_of_trainer(run: Path) -> None:
    folder = run / "checkpoint-3"
    state = TrainingState.from_pretrained(folder)
    assert set(state.steps.values()) == {3.0}
    assert set(state.records) == {"trainer", "scheduler", "rng"}
    assert json.loads(json.dumps(state.records)) == state.records
    assert state.optimizer is not None
    assert state.optimizer.name == "AdamW"
    assert [group.options["weight_decay"] for group in state.optimizer.groups] == [0.1, 0.0]
    assert "model.layers.0.input_layernorm.weight" in state.optimizer.groups[1].names
    # the moments belong to their names: the oracle is a live Trainer that loaded the same checkpoint
    stored = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
    names = [name for group in state.optimizer.groups for name in group.names]
    for number, name in enumerate(names):
        assert torch.equal(state.source.read(name, "exp_avg"), stored[number]["exp_avg"])
    live = trainer(run / "live", 3)
    live.train()
    assert_same_tensors(TrainingState.from_model(live.model, live.optimizer.optimizer), state)


@pytest.mark.parametrize("through", ["directly", "native"])
def test_trainer_continues_what_is_written(run: Path, tmp_path: Path, through: str) -> None:
    state = TrainingState.from_pretrained(run / "checkpoint-3")
    if through == "native":
        state = TrainingState.from_pretrained(state.save_pretrained(tmp_path / "native"))
    written = state.save_pretrained(tmp_path / "checkpoint-3", format="trainer")
    again = TrainingState.from_pretrained(written)
    assert_same_tensors(state, again)
    assert again.records == state.records
    resumed = trainer(tmp_path, 6, tiny_llama(seed=5))
    resumed.train(resume_from_checkpoint=str(written))
    assert resumed.state.global_step == 6
    after = TrainingState.from_model(resumed.model, resumed.optimizer.optimizer)
    assert_same_tensors(TrainingState.from_pretrained(run / "checkpoint-6"), after)
    assert_same_tensors(
        TrainingState.from_pretrained(run / "checkpoint-6"),
        TrainingState.from_pretrained(tmp_path / "checkpoint-6"),
    )


def test_trainer_continues_a_state_that_never_saw_one(run: Path, tmp_path: Path) -> None:
    full = TrainingState.from_pretrained(run / "checkpoint-3")
    state = TrainingState(full.config, full.source, full.steps, full.optimizer)
    written = state.save_pretrained(tmp_path / "checkpoint-3", format="trainer")
    seen: dict[str, Any] = {}

    class Watch(Trainer):
        def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            if not seen:
                seen.update(step=self.state.global_step, state=self.optimizer.optimizer.state_dict())
                seen["moment"] = seen["state"]["state"][0]["exp_avg"].clone()
                seen["lr"] = self.optimizer.param_groups[0]["lr"]
            return super().training_step(model, *args, **kwargs)

    base = trainer(tmp_path, 5, tiny_llama(seed=5))
    watch = Watch(tiny_llama(seed=5), base.args, train_dataset=ROWS)  # type: ignore[arg-type]
    watch.train(resume_from_checkpoint=str(written))
    assert seen["step"] == 3
    assert seen["lr"] == 1e-2
    assert state.optimizer is not None
    first = state.optimizer.groups[0].names[0]
    assert torch.equal(seen["moment"], full.source.read(first, "exp_avg"))
    assert seen["state"]["state"][0]["step"] >= 3
    assert watch.state.global_step == 5


@pytest.mark.parametrize("format", ["trainer", "native"])
def test_moments_that_are_reset_leave_the_step(run: Path, tmp_path: Path, format: Any) -> None:
    """The schedule and the data go on, though no tensor counts its steps any more."""
    full = TrainingState.from_pretrained(run / "checkpoint-3")
    state = TrainingState(full.config, full.source, full.steps, full.optimizer)
    grown = grow(state, to={"num_hidden_layers": 3}, moments="reset")
    written = grown.save_pretrained(tmp_path / "large", format=format)
    name, key = {"trainer": ("trainer_state.json", "global_step"), "native": ("outgrow.json", "step")}[format]
    assert json.loads((written / name).read_text())[key] == 3


def test_optimizer_pt_is_a_whole_zip_without_surprises(run: Path, tmp_path: Path) -> None:
    state = TrainingState.from_pretrained(run / "checkpoint-3")
    written = state.save_pretrained(tmp_path / "out", format="trainer")
    with zipfile.ZipFile(written / "optimizer.pt") as archive:
        assert archive.testzip() is None
    for mapped in (True, False):
        content = torch.load(written / "optimizer.pt", weights_only=True, mmap=mapped)
        assert content["param_groups"][0]["param_names"] == list(state.optimizer.groups[0].names)  # type: ignore[union-attr]
        model = tiny_llama()
        decayed = [dict(model.named_parameters())[n] for n in state.optimizer.groups[0].names]  # type: ignore[union-attr]
        rest = [dict(model.named_parameters())[n] for n in state.optimizer.groups[1].names]  # type: ignore[union-attr]
        optimizer = torch.optim.AdamW([{"params": decayed}, {"params": rest}])
        optimizer.load_state_dict(content)
        assert_same_tensors(TrainingState.from_model(model, optimizer), state, ("exp_avg", "exp_avg_sq"))


def test_without_optimizer_there_are_no_moments(run: Path, tmp_path: Path) -> None:
    state = TrainingState.from_pretrained(run / "checkpoint-3")
    written = state.save_pretrained(tmp_path / "out", format="trainer")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (written / name).unlink()
    bare = TrainingState.from_pretrained(written)
    assert (bare.steps, bare.optimizer, bare.source.names("exp_avg")) == ({}, None, ())
    assert not bare.unread
    (written / "checkpoint-is-incomplete.txt").touch()
    with pytest.raises(CheckpointError, match="incomplete"):
        TrainingState.from_pretrained(written)


def _edit(folder: Path, change: Any) -> None:
    content = torch.load(folder / "optimizer.pt", weights_only=True)
    change(content)
    torch.save(content, folder / "optimizer.pt")


def _transpose(content: Any) -> None:
    number = next(
        i
        for i, s in content["state"].items()
        if s["exp_avg"].ndim == 2 and s["exp_avg"].shape[0] != s["exp_avg"].shape[1]
    )
    content["state"][number]["exp_avg"] = content["state"][number]["exp_avg"].T.contiguous()


def _swap_groups(content: Any) -> None:
    a, b = (len(group["params"]) for group in content["param_groups"])
    content["param_groups"][0]["params"], content["param_groups"][1]["params"] = (
        list(range(b)),
        list(range(b, a + b)),
    )


def _unnumber(content: Any) -> None:
    content["param_groups"][0]["params"][0] = 7


BAD_OPTIMIZERS = {
    "wrong shape": (_transpose, "groups its parameters in another way"),
    "a parameter less": (
        lambda c: (c["param_groups"][1]["params"].pop(), c["state"].pop(max(c["state"]))),
        "stores no names, and its parameters can be read in several ways",
    ),
    "other groups": (_swap_groups, "groups its parameters in another way"),
    "other numbers": (_unnumber, "does not number"),
    "a moment less": (lambda c: c["state"][2].pop("exp_avg_sq"), "other state than AdamW's"),
    "amsgrad": (lambda c: c["state"][2].update(max_exp_avg_sq=torch.zeros(2)), "other state than AdamW's"),
    "integers": (
        lambda c: c["state"][0].update(exp_avg=c["state"][0]["exp_avg"].int()),
        "wrong shape or dtype",
    ),
    "numbers": (lambda c: c["state"][0].update(exp_avg=3.0), "wrong shape or dtype"),
    "sgd": (
        lambda c: [group.pop("betas") for group in c["param_groups"]],
        "not the state of an optimizer that outgrow knows",
    ),
    "names": (
        lambda c: [g.update(param_names=[f"x{i}" for i in g["params"]]) for g in c["param_groups"]],
        "param_names are not",
    ),
    "steps": (lambda c: c["state"][1].update(step=torch.ones(3)), "the step of .* is damaged"),
    "no step": (lambda c: c["state"][1].update(step=float("nan")), "the step of .* is damaged"),
    "half a step": (lambda c: c["state"][1].update(step=torch.tensor(1.5)), "the step of .* is damaged"),
    "a sparse moment": (
        lambda c: c["state"][0].update(exp_avg=c["state"][0]["exp_avg"].to_sparse()),
        r"wrong shape or dtype(.|\n)*sparse",
    ),
    "a moment of bytes": (
        lambda c: c["state"][0].update(exp_avg=c["state"][0]["exp_avg"].to(torch.float8_e4m3fn)),
        "wrong shape or dtype",
    ),
    "negative squares": (
        lambda c: c["state"][1]["exp_avg_sq"].sub_(1.0),
        "exp_avg_sq of .* holds negative numbers",
    ),
    "a rate that is none": (lambda c: c["param_groups"][0].update(lr=float("nan")), "lr of .* damaged"),
    "a rate in words": (lambda c: c["param_groups"][0].update(initial_lr="x"), "initial_lr of .* damaged"),
    "one beta": (lambda c: c["param_groups"][1].update(betas=(0.9,)), "betas of .* damaged"),
    "a beta of one": (lambda c: c["param_groups"][1].update(betas=(0.9, 1.0)), "betas of .* damaged"),
    "a negative eps": (lambda c: c["param_groups"][1].update(eps=-1e-8), "eps of .* damaged"),
    "an infinite decay": (
        lambda c: c["param_groups"][0].update(weight_decay=float("inf")),
        "weight_decay of .* damaged",
    ),
    "rates": (lambda c: c["param_groups"][0].update(lr=torch.ones(2)), "the option lr is damaged"),
    "nothing": (lambda c: c.clear(), "not an optimizer's state"),
    "infinite": (
        lambda c: c["state"][1]["exp_avg_sq"].fill_(float("inf")),
        "exp_avg_sq of .* holds NaN or infinity",
    ),
}


@pytest.mark.parametrize("kind", BAD_OPTIMIZERS)
def test_moments_of_the_wrong_shape_or_count(run: Path, tmp_path: Path, kind: str) -> None:
    change, message = BAD_OPTIMIZERS[kind]
    small = tmp_path / "small"
    small.mkdir()
    for name in ("config.json", "model.safetensors", "optimizer.pt"):
        (small / name).write_bytes((run / "checkpoint-3" / name).read_bytes())
    _edit(small, change)
    assert_only_weights(small, tmp_path / "out", message)


def assert_only_weights(folder: Path, out: Path, message: str) -> None:
    """The weights open and are written; whoever asks for moments is told why not and how, before anything is written."""
    state = TrainingState.from_pretrained(folder)
    assert (state.optimizer, state.steps, state.source.names("exp_avg")) == (None, {}, ())
    grown = grow(state, to={"num_hidden_layers": 3})
    for one, format in ((state, "native"), (grown, "native"), (grown, "trainer")):
        with pytest.raises(CheckpointError, match=message) as caught:
            one.save_pretrained(out, format=format)  # type: ignore[arg-type]
        assert "--moments reset" in str(caught.value)
        assert "--format hub" in str(caught.value)
        assert not out.exists()
    assert_same_tensors(
        TrainingState.from_pretrained(state.save_pretrained(out, format="hub")), state, ("weight",)
    )
    reset = grow(state, to={"num_hidden_layers": 3}, moments="reset").save_pretrained(out, overwrite=True)
    left = json.loads((reset / "outgrow.json").read_text())["lineage"][-1]["files"]["left_behind"]
    assert "optimizer.pt" in left


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_never_run(run: Path, tmp_path: Path, name: str, zipped: bool) -> None:
    """It stays behind, named; what it holds is refused where it is asked for."""
    small = copied(run / "checkpoint-3", tmp_path / "small")
    assert not TrainingState.from_pretrained(small).unread
    torch.save({"state": Payload(tmp_path / "pwned")}, small / name, _use_new_zipfile_serialization=zipped)
    for content in (None, (run / "checkpoint-3" / name).read_bytes()[:-100]):
        if content is not None:
            (small / name).write_bytes(content)
        left_behind(small, name)
        assert not (tmp_path / "pwned").exists()


def copied(checkpoint: Path, target: Path) -> Path:
    """A checkpoint that a test may damage."""
    target.mkdir()
    for path in checkpoint.iterdir():
        if path.suffix != ".bin":
            (target / path.name).write_bytes(path.read_bytes())
    return target


def left_behind(folder: Path, name: str) -> None:
    """A file is named as left behind, and refused only where it is asked for."""
    state = TrainingState.from_pretrained(folder)
    (left,) = [file for file in state.files if file.name == name]
    assert left.kind == "left"
    assert name in left.why
    if name != "rng_state.pth":
        with pytest.raises(CheckpointError, match=name):
            state.save_pretrained(folder.with_name("out"), format="trainer")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epoch", "x"),
        ("epoch", -1.0),
        ("max_steps", [1]),
        ("save_steps", True),
        ("total_flos", {}),
        ("train_batch_size", "8"),
        ("best_model_checkpoint", 3),
        ("stateful_callbacks", [1]),
        ("log_history", [3]),
        ("global_step", -3),
    ],
)
def test_nonsense_in_trainers_state_is_not_carried(
    run: Path, tmp_path: Path, key: str, value: object
) -> None:
    small = copied(run / "checkpoint-3", tmp_path / "small")
    path = small / "trainer_state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    left_behind(small, path.name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base_lrs", [float("nan"), 1.0]),
        ("_last_lr", [-1.0, 1.0]),
        ("base_lrs", [torch.ones(3), 1.0]),
        ("last_epoch", "x"),
        ("_step_count", 0.5),
        ("_schedulers", [{"base_lrs": ["x"]}]),
        ("note", torch.empty(2, device="meta")),
    ],
)
def test_nonsense_in_a_schedule_is_not_carried(run: Path, tmp_path: Path, key: str, value: object) -> None:
    small = copied(run / "checkpoint-3", tmp_path / "small")
    path = small / "scheduler.pt"
    torch.save({**torch.load(path), key: value}, path)
    left_behind(small, path.name)


def test_several_schedules_in_one_go_on_or_are_refused(run: Path, tmp_path: Path) -> None:
    """Trainer would load the one that is written for them, and fail."""
    small = copied(run / "checkpoint-3", tmp_path / "small")
    first = torch.load(small / "scheduler.pt")
    several = {"_milestones": [2], "last_epoch": 3, "_last_lr": first["_last_lr"], "_schedulers": [first] * 2}
    torch.save(several, small / "scheduler.pt")
    state = TrainingState.from_pretrained(small)
    state.save_pretrained(tmp_path / "on", format="trainer")
    assert torch.load(tmp_path / "on" / "scheduler.pt") == several
    with pytest.raises(CheckpointError, match="2 schedules in one"):
        rescheduled(state, reset_schedule=True)


@pytest.mark.parametrize("depth", ["identity", "stack"])
def test_trainer_continues_a_grown_checkpoint(run: Path, tmp_path: Path, depth: str) -> None:
    """The whole path of a Trainer user: checkpoint, grow in width and depth, resume with the grown moments."""
    from transformers import AutoModelForCausalLM

    small = TrainingState.from_pretrained(run / "checkpoint-3")
    to = {"hidden_size": 16, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 3}
    grown = grow(small, to=to, depth=depth, noise=0.1)
    written = grown.save_pretrained(tmp_path / "checkpoint-3", format="trainer")
    seen: list[TrainingState] = []

    class Watch(Trainer):
        def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            if not seen:
                live = TrainingState.from_model(model, self.optimizer.optimizer)
                names = {slot: live.source.names(slot) for slot in ("weight", "exp_avg", "exp_avg_sq")}
                tensors = {
                    slot: {n: live.source.read(n, slot).clone() for n in names[slot]} for slot in names
                }
                seen.append(replace(live, source=MemorySource(tensors)))
            return super().training_step(model, *args, **kwargs)

    model = AutoModelForCausalLM.from_pretrained(written)
    watch = Watch(model, trainer(tmp_path, 6, model).args, train_dataset=ROWS)  # type: ignore[arg-type]
    watch.train(resume_from_checkpoint=str(written))
    loaded = seen[0]
    for slot in ("weight", "exp_avg", "exp_avg_sq"):
        for name in loaded.source.names(slot):
            assert torch.equal(loaded.source.read(name, slot), grown.source.read(name, slot)), (slot, name)
    assert loaded.steps == grown.steps
    assert watch.state.global_step == 6
    after = TrainingState.from_model(watch.model, watch.optimizer.optimizer)
    assert set(after.steps.values()) <= {3.0, 6.0}  # tensors of silent layers began at 0


def test_another_rate_and_a_schedule_that_begins_anew(run: Path, tmp_path: Path) -> None:
    """Trainer takes the peak from the checkpoint, so it is changed there; begun anew, `max_steps` counts from the growth."""
    from transformers import AutoModelForCausalLM

    from outgrow.state.rescheduling import rescheduled

    grown = grow(TrainingState.from_pretrained(run / "checkpoint-3"), to={"num_hidden_layers": 3})
    for reset, steps in ((False, 2), (True, 5)):
        asked = rescheduled(grown, learning_rate=4e-3, reset_schedule=reset)
        written = asked.save_pretrained(tmp_path / str(reset), format="trainer")
        resumed = trainer(tmp_path / f"go-{reset}", 5, AutoModelForCausalLM.from_pretrained(written))
        resumed.train(resume_from_checkpoint=str(written))
        rates = [
            row["learning_rate"]
            for row in resumed.state.log_history
            if row.get("step", 0) > 3 * (not reset) and "learning_rate" in row
        ]
        assert rates == pytest.approx([4e-3] * steps)
        assert set(asked.steps.values()) == {3.0}
    with pytest.raises(CheckpointError, match="no optimizer"):
        rescheduled(TrainingState.from_model(tiny_llama()), learning_rate=1e-3)


def test_a_warm_up_that_begins_anew_begins_low(run: Path, tmp_path: Path) -> None:
    """Trainer takes the first step's rate from the optimizer's file, where the peak stands."""
    from transformers import AutoModelForCausalLM

    from outgrow import OwnArguments
    from outgrow.state.rescheduling import rescheduled

    grown = grow(TrainingState.from_pretrained(run / "checkpoint-3"), to={"num_hidden_layers": 3})
    written = rescheduled(grown, reset_schedule=True).save_pretrained(tmp_path / "grown", format="trainer")
    resumed = trainer(tmp_path / "go", 5, AutoModelForCausalLM.from_pretrained(written))
    resumed.args.lr_scheduler_type, resumed.args.warmup_steps = SchedulerType.LINEAR, 2
    taken = list[float]()

    class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
        def on_pre_optimizer_step(self, *_: Any, **live: Any) -> None:
            taken.append(live["optimizer"].param_groups[1]["lr"])

    resumed.add_callback(OwnArguments())
    resumed.add_callback(Watch())
    resumed.train(resume_from_checkpoint=str(written))
    assert taken == pytest.approx([0.0, 5e-3, 1e-2, 1e-2 * 2 / 3, 1e-2 / 3])
    logged = [row["learning_rate"] for row in resumed.state.log_history if "learning_rate" in row]
    assert logged == pytest.approx(taken)


def test_a_peak_that_is_not_the_first_rate_is_scaled_too() -> None:
    """OneCycleLR begins at a 25th of its peak, and reads both from the optimizer's groups."""
    from outgrow.state.rescheduling import rescheduled

    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters())
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=10)
    state = rescheduled(TrainingState.from_model(model, optimizer), learning_rate=5e-3)
    assert state.optimizer is not None
    options = state.optimizer.groups[0].options
    assert [options[name] for name in ("max_lr", "initial_lr", "min_lr")] == pytest.approx([5e-3, 2e-4, 2e-8])


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("every", "seen"), [(2, 2), (0.25, 2)])
def test_a_grown_checkpoint_goes_on_with_the_arguments_of_its_user(
    run: Path, tmp_path: Path, own: bool, every: float, seen: int
) -> None:
    """Logs, evaluations, checkpoints and batch; without the callback Trainer takes the small model's (1, 3 and 2)."""
    from transformers import AutoModelForCausalLM

    from outgrow import OwnArguments

    grown = grow(TrainingState.from_pretrained(run / "checkpoint-3"), to={"num_hidden_layers": 3})
    written = grown.save_pretrained(tmp_path / "grown", format="trainer")
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=8,
        per_device_train_batch_size=4,
        eval_strategy="steps",
        logging_steps=every,
        eval_steps=every,
        save_steps=2 * every,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    resumed = Trainer(
        AutoModelForCausalLM.from_pretrained(written),
        arguments,
        train_dataset=ROWS,  # type: ignore[arg-type]
        eval_dataset=ROWS[:4],  # type: ignore[arg-type]
        callbacks=[OwnArguments()] if own else [],
    )
    resumed.train(resume_from_checkpoint=str(written))
    log = [entry for entry in resumed.state.log_history if entry["step"] > 3]
    saved = json.loads((tmp_path / "out" / "checkpoint-8" / "trainer_state.json").read_text())
    logged = [entry["step"] for entry in log if "loss" in entry]
    assert logged == ([4, 6, 8] if own else [4, 5, 6, 7, 8])
    checkpoints = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))
    assert checkpoints == [f"checkpoint-{step}" for step in ((4, 8) if own else (6, 8))]
    if own:
        assert [entry["step"] for entry in log if "eval_loss" in entry] == [4, 6, 8]
        assert (saved["logging_steps"], saved["eval_steps"], saved["save_steps"]) == (seen, seen, 2 * seen)
    assert saved["train_batch_size"] == (4 if own else 2)
    assert saved["global_step"] == 8
