"""The log of a real `transformers.Trainer` as a curve: its tokens, its model, and one message for every mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from outgrow.errors import ConfigError
from outgrow.planning.curves import CurveFile, read_curves
from outgrow.store.growth_log import GROWTHS

ROWS = [
    {"input_ids": row, "labels": row}
    for row in torch.randint(3, 19, (64, 7), generator=torch.Generator().manual_seed(0)).tolist()
]
BATCH, ACCUMULATED, STEPS = 2, 2, 12
STEP_TOKENS = BATCH * ACCUMULATED * 7
Edit = Callable[[dict[str, Any]], Any]


def train(folder: Path, counted: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 19, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, bos_token_id=1, eos_token_id=2))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATED,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": 3},
        warmup_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        eval_on_start=True,
        logging_steps=1,
        save_steps=6,
        include_num_input_tokens_seen=counted,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=ROWS, eval_dataset=ROWS[:4])  # type: ignore[arg-type]
    trainer.train()
    trainer.evaluate()  # the last step, evaluated once more
    trainer.save_model()
    trainer.save_state()
    return model


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int]]:
    """Run folder and number of parameters, by whether Trainer counted tokens."""
    found = {}
    for counted in ("all", "no"):
        folder = tmp_path_factory.mktemp(counted)
        found[counted] = (folder, train(folder, counted).num_parameters())
    return found


def test_the_log_of_a_run(runs: dict[str, tuple[Path, int]]) -> None:
    folder, parameters = runs["all"]
    (curve,) = read_curves(CurveFile(folder))
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert curve.parameters == parameters
    assert curve.config is not None
    assert curve.tokens.tolist() == [STEP_TOKENS * step for step in range(2, STEPS + 1, 2)]
    evaluated = {entry["step"]: entry["eval_loss"] for entry in log if "eval_loss" in entry}
    assert curve.loss.tolist() == [evaluated[step] for step in range(2, STEPS + 1, 2)]
    assert "1 points before the first step left out" in curve.notes
    assert "1 steps were logged twice: the later counts" in curve.notes
    rates = {entry["step"]: entry["learning_rate"] for entry in log if "learning_rate" in entry}
    peak = [step for step, rate in rates.items() if rate == max(rates.values())]
    assert curve.stable == (STEP_TOKENS * peak[0], STEP_TOKENS * peak[-1])
    (without,) = read_curves(CurveFile(folder), "without_embeddings")
    assert without.parameters == parameters - 2 * 19 * 12


def test_steps_and_tokens_per_step_say_the_same(runs: dict[str, tuple[Path, int]]) -> None:
    counted = read_curves(CurveFile(runs["all"][0]))[0]
    (stepped,) = read_curves(CurveFile(runs["no"][0], tokens_per_step=STEP_TOKENS))
    assert stepped.tokens.tolist() == counted.tokens.tolist()
    assert stepped.loss.tolist() == counted.loss.tolist()
    assert stepped.stable == counted.stable
    file = CurveFile(runs["no"][0] / "trainer_state.json", 5e6, STEP_TOKENS, tag="loss")
    (training,) = read_curves(file)  # the number given counts, whatever lies beside
    assert (training.parameters, len(training.tokens)) == (5e6, STEPS)
    assert "training loss" in training.notes[0]


def test_a_run_folder_means_its_last_checkpoint(runs: dict[str, tuple[Path, int]], tmp_path: Path) -> None:
    for name in ("checkpoint-6", "checkpoint-12"):
        for file in ("trainer_state.json", "config.json"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_bytes((runs["all"][0] / name / file).read_bytes())
    (curve,) = read_curves(CurveFile(tmp_path))
    assert curve.source == str(tmp_path / "checkpoint-12" / "trainer_state.json")
    (tmp_path / "other").mkdir()
    assert "not a curve file" in refused(tmp_path / "other")


def refused(path: Path, **given: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read_curves(CurveFile(path, **given))
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def edited(runs: dict[str, tuple[Path, int]], tmp_path: Path) -> Callable[[Edit, str], Path]:
    def edit(change: Edit, counted: str = "all") -> Path:
        for name in ("trainer_state.json", "config.json"):
            (tmp_path / name).write_bytes((runs[counted][0] / name).read_bytes())
        state = json.loads((tmp_path / "trainer_state.json").read_text())
        changed = change(state)
        (tmp_path / "trainer_state.json").write_text(
            json.dumps(changed if isinstance(changed, list) else state)
        )
        return tmp_path / "trainer_state.json"

    return edit


def at(state: dict[str, Any], key: str, place: int = 2) -> dict[str, Any]:
    """The entry of the log that is the third to hold a key."""
    return [entry for entry in state["log_history"] if key in entry][place]


def drop(key: str) -> Edit:
    def change(state: dict[str, Any]) -> None:
        for entry in state["log_history"]:
            entry.pop(key, None)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: at(s, "eval_loss").update(eval_loss=float("nan")), "eval_loss is not a positive number"),
        (lambda s: at(s, "eval_loss").update(eval_loss="3.1"), "eval_loss is not a number"),
        (lambda s: at(s, "eval_loss").update(eval_loss=True), "eval_loss is not a number"),
        (lambda s: at(s, "eval_loss").update(eval_loss=10**400), "eval_loss is not a positive number"),
        (lambda s: at(s, "eval_loss").pop("step"), "step is not a number"),
        (lambda s: at(s, "eval_loss").pop("num_input_tokens_seen"), "no num_input_tokens_seen"),
        (
            lambda s: at(s, "eval_loss").update(num_input_tokens_seen=None),
            "num_input_tokens_seen is not a number",
        ),
        (lambda s: at(s, "eval_loss", 3).update(num_input_tokens_seen=1), "num_input_tokens_seen goes back"),
        (
            lambda s: at(s, "learning_rate").update(learning_rate=float("inf")),
            "learning_rate is not a finite",
        ),
        (lambda s: s["log_history"].insert(1, 5), "log_history[1]: not an object"),
        (lambda s: s["log_history"].insert(1, {"step": 6, GROWTHS: []}), "this run was grown"),
        (lambda s: s.pop("log_history"), "no list log_history"),
        (lambda s: s.update(log_history={}), "no list log_history"),
        (
            lambda s: s.update(log_history=[{"step": 1, "accuracy": 1.0}]),
            "no entry of log_history has a loss",
        ),
        (lambda s: s.update(log_history=[]), "no entry of log_history has a loss"),
        (lambda s: [s], "no list log_history"),
    ],
)
def test_mistakes_in_the_log(edited: Callable[[Edit], Path], change: Edit, said: str) -> None:
    assert said in refused(edited(change))


def test_without_evaluation_the_training_loss_counts(edited: Callable[[Edit], Path]) -> None:
    (curve,) = read_curves(CurveFile(edited(drop("eval_loss"))))
    assert len(curve.tokens) == STEPS
    assert "training loss" in curve.notes[0]


def test_what_is_given_must_fit(edited: Callable[..., Path]) -> None:
    path = edited(lambda state: None)
    assert "tokens_per_step is given, but the log has" in refused(path, tokens_per_step=STEP_TOKENS)
    assert "did you mean eval_loss" in refused(path, tag="eval_los")
    assert "holds one run without a name" in refused(path, parameters={"a": 1e6})
    path = edited(lambda state: None, "no")
    assert "give tokens_per_step" in refused(path)
    # sequences instead of tokens; 6 * N lies between all parameters and those without embeddings
    assert "does not fit total_flos" in refused(path, tokens_per_step=BATCH * ACCUMULATED)
    (path.parent / "config.json").write_text("[]")
    assert "config.json is not a JSON object" in refused_beside(path)
    (path.parent / "config.json").unlink()
    assert "keep the model's config.json beside it" in refused(path, tokens_per_step=STEP_TOKENS)
    path.write_text("{")
    assert "not valid JSON" in refused(path)


def refused_beside(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_curves(CurveFile(path, tokens_per_step=STEP_TOKENS))
    return str(caught.value)
