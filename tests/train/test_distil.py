"""A new model that first learns from the one before it (KI): the loss, its gradients, its costs, resuming, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from battery import zoo
from outgrow.cost.flops import model_cost, training_flops
from outgrow.data.objectives import IGNORED
from outgrow.engine.optimizers import build_optimizer
from outgrow.engine.step import Device, Lesson, optimizer_step
from outgrow.engine.teaching import Teacher, divergence
from outgrow.errors import ConfigError
from outgrow.run.distil import DistilConfig
from outgrow.run.optimizer_config import SGDConfig
from outgrow.run.run_file import parse_run
from outgrow.state.training_state import TrainingState
from outgrow.training import train_run
from outgrow.training.folder import read_metrics
from outgrow.training.preflight import preflight
from train.test_treatment import whole_and_killed

Tiny = Callable[..., dict[str, Any]]
CPU = Device("cpu", False)
LARGE = {
    "model_type": "llama",
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "attention_dropout": 0.1,
}


def taught(tiny: Tiny, lessons: dict[str, Any] | None = None, **replace: Any) -> dict[str, Any]:
    """The tiny run with a new model in its second stage, taught for 7 of its 12 steps."""
    distil = {"into": LARGE, "tokens": 64 * 7, "temperature": 2.0, **(lessons or {})}
    stages = [{"name": "small", "tokens": 64 * 12}, {"name": "large", "tokens": 64 * 12, "distil": distil}]
    return tiny(**{"stages": stages, **replace})


def test_the_divergence_is_its_definition() -> None:
    torch.manual_seed(0)
    own, theirs = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    targets = torch.tensor([[1, IGNORED, 4], [IGNORED, 0, 2]])
    right = 0.0
    for item, place in [(0, 0), (0, 2), (1, 1), (1, 2)]:
        p, q = ((scores[item, place].double() / 3).softmax(-1) for scores in (theirs, own))
        right += 9 * float((p * (p / q).log()).sum())
    assert float(divergence(own, theirs, targets, 3.0)) == pytest.approx(right, rel=1e-5)  # float32


def gradients(
    micro_batch: int, lesson: Lesson | None, inputs: Tensor, targets: Tensor
) -> tuple[dict[str, Tensor], float]:
    """Of a step of SGD at rate 1, and the loss that it says."""
    model = zoo.build(dict(zoo.resolved("llama").config))
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    optimizer = build_optimizer(
        model, SGDConfig(name="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.0)
    )
    step = optimizer_step(
        model, optimizer, (inputs, targets), learning_rate=1.0, micro_batch=micro_batch, clip=None, device=CPU,
        seed=(0, 0), lesson=lesson,
    )  # fmt: skip
    return {name: before[name] - one.detach() for name, one in model.named_parameters()}, step.loss


def test_a_taught_step_mixes_two_gradients_and_logs_its_own_loss() -> None:
    """Gradients are linear in the loss. Scores are float32 in it: 27 targets of 37 classes, each off by 6e-8 of itself."""
    inputs = zoo.batch(0)
    targets = inputs.roll(-1, 1)
    state = TrainingState.from_model(zoo.build(dict(zoo.resolved("llama").config), seed=5))
    teacher = Teacher(state, DistilConfig(into=LARGE, tokens=100, weight=0.8, temperature=2.0), CPU)
    lesson = teacher.lesson(25)
    assert lesson is not None
    assert lesson.weight == pytest.approx(0.6)
    assert teacher.lesson(100) is None
    plain, loss = gradients(3, None, inputs, targets)
    mixed, logged = gradients(3, lesson, inputs, targets)
    alone, _ = gradients(3, Lesson(1.0, lesson.divergence), inputs, targets)
    pieces, _ = gradients(1, lesson, inputs, targets)
    assert logged == loss
    assert max(float(one.abs().max()) for one in alone.values()) > 1e-3
    for name, one in mixed.items():
        torch.testing.assert_close(one, 0.4 * plain[name] + 0.6 * alone[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one, pieces[name], rtol=1e-5, atol=1e-6)


def test_a_run_counts_its_teacher_and_begins_as_any_new_model(tiny: Tiny, tmp_path: Path) -> None:
    run = parse_run(taught(tiny))
    train_run(run, progress=False)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    small, large = (row for row in rows if row["kind"] == "stage")
    assert large["taught_tokens"] == 64 * 7
    costs = [training_flops(stage["config"], 16)[1] for stage in (small, large)]
    forward = model_cost(small["config"]).forward(16)
    assert rows[-1]["flops"] == pytest.approx(64 * 12 * sum(costs) + 64 * 7 * forward)
    twin = parse_run(tiny(output=str(tmp_path / "twin"), model=LARGE, stages=[{"name": "a", "tokens": 64}]))
    first = preflight(twin).stages[0].config
    assert {**large["config"], "dtype": None} == {**first, "dtype": None}
    losses = [row["loss"] for row in rows if row["kind"] == "train" and row["stage"] == "large"]
    assert losses[-1] < losses[0]


def test_a_killed_lesson_goes_on_with_the_same_bits(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = whole_and_killed(taught(tiny), tmp_path, monkeypatch)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


def test_a_checkpoint_can_teach_and_its_lessons_end(tiny: Tiny, tmp_path: Path) -> None:
    train_run(parse_run(taught(tiny)), progress=False)
    start = tmp_path / "run" / "stages"
    (small,) = start.glob("*small/step-*")

    def last(name: str, lessons: dict[str, Any]) -> bytes:
        stages = [
            {"name": "large", "tokens": 64 * 4, "from": str(small), "distil": {"into": LARGE, **lessons}}
        ]
        run = taught(tiny, stages=stages, output=str(tmp_path / name))
        del run["model"], run["data"]["tokenizer"]
        train_run(parse_run(run), progress=False)
        return (tmp_path / name / "final" / "model.safetensors").read_bytes()

    silent = last("silent", {"tokens": 1})  # the first step's middle is behind it
    assert last("again", {"tokens": 32}) == silent
    assert last("taught", {"tokens": 33}) != silent


@pytest.mark.parametrize(
    ("lessons", "more", "says"),
    [
        ({"into": {"hidden_size": 8}}, {}, "into.model_type is missing"),
        ({"into": {**LARGE, "model_type": "bert"}}, {}, "unknown key model.attention_dropout for bert"),
        (
            {"into": {"model_type": "bert", "hidden_size": 24, "num_attention_heads": 3}},
            {},
            "cannot learn from the scores",
        ),
        (
            {"into": {**LARGE, "vocab_size": 400}},
            {},
            r"(?s)cannot learn from the scores.*400 classes.*300 classes",
        ),
        ({"weight": 1.5}, {}, "distil.weight"),
        ({"temperature": 0}, {}, "distil.temperature"),
        ({"teacher": "x"}, {}, "distil.teacher"),
    ],
)
def test_what_cannot_be_taught_is_refused_before_any_training(
    tiny: Tiny, tmp_path: Path, lessons: dict[str, Any], more: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        preflight(parse_run(taught(tiny, lessons, **more)))
    assert not (tmp_path / "run").exists()


def test_a_stage_is_grown_or_new_and_has_a_model_before_it(tiny: Tiny) -> None:
    run = taught(tiny)
    run["stages"][1]["grow"] = {"to": {"num_hidden_layers": 2}}
    with pytest.raises(ConfigError, match="give one of grow and distil"):
        parse_run(run)
    run = taught(tiny)
    run["stages"] = run["stages"][1:]
    with pytest.raises(ConfigError, match=r"stages\[0\].distil needs stages\[0\].from"):
        parse_run(run)
