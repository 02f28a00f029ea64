"""A run goes on from its own checkpoint, and carries what the model that it began with brings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from outgrow.errors import ConfigError
from outgrow.files.yaml_file import apply_override, dump_yaml, read_yaml
from outgrow.run.config import RunConfig
from outgrow.training.folder import load_to_train
from outgrow.training.loop import train_run

Tiny = Callable[..., dict[str, Any]]


def run_of(content: dict[str, Any]) -> RunConfig:
    return TypeAdapter(RunConfig).validate_python(content)


def test_a_checkpoint_of_another_run_is_not_continued(tiny: Tiny, tmp_path: Path) -> None:
    stages = [{"name": "small", "tokens": 64 * 4}]
    runs = {}
    for name, size in (("mine", 16), ("same", 16), ("other", 24)):
        content = tiny(output=str(tmp_path / name), stages=stages)
        content["model"]["hidden_size"] = size
        if name == "same":
            content["optimizer"] = {"learning_rate": 3e-3}
        runs[name] = run_of(content)
        train_run(runs[name], progress=False)
    latest = tmp_path / "mine" / "latest.json"
    pointer = json.loads(latest.read_text())
    latest.write_text(json.dumps({**pointer, "finished": False}))
    for name, message in (
        ("same", "another configuration: optimizer.learning_rate"),
        ("other", "hidden_size|embed"),
    ):
        shutil.rmtree(tmp_path / "mine" / pointer["checkpoint"])
        shutil.copytree(tmp_path / name / pointer["checkpoint"], tmp_path / "mine" / pointer["checkpoint"])
        with pytest.raises(ConfigError, match=message):
            train_run(runs["mine"], progress=False)


def done(tiny: Tiny, tmp_path: Path) -> Path:
    """The folder of a run of two stages that is done."""
    root = tmp_path / "mine"
    train_run(run_of(tiny(output=str(root), checkpoint={"every_steps": 4, "keep": 2})), progress=False)
    return root


def stands_at(root: Path, checkpoint: str, stage: int) -> None:
    """The run stands at the end of its first stage, or at what was grown from it."""
    path = root / "latest.json"
    pointer = json.loads(path.read_text())
    stages = pointer["stages"][: stage + 1]
    at = {
        "checkpoint": checkpoint,
        "step": pointer["stages"][1]["first"],
        "finished": False,
        "stages": stages,
    }
    path.write_text(json.dumps({**pointer, **at}))


@pytest.mark.parametrize("place", ["end", "grown", "finished"])
def test_an_edit_of_the_run_yaml_in_its_folder_is_seen(tiny: Tiny, tmp_path: Path, place: str) -> None:
    root = done(tiny, tmp_path)
    first = json.loads((root / "latest.json").read_text())["stages"][1]["first"]
    if place == "end":
        stands_at(root, f"stages/1-small/step-{first:08d}", 0)
    elif place == "grown":
        stands_at(root, "stages/2-large/grown", 1)
    before = read_yaml(root / "run.yaml")
    for override in (
        "optimizer.learning_rate=1e-4",
        "model.hidden_act=gelu",
        "stages.1.batch={sequences: 2}",
        "stages.1.new_entries={multiplier: 2.0}",
        "stages.1.grow.noise=0.5",
        "evaluation.every_tokens=64",
    ):
        now = json.loads(json.dumps(before))
        apply_override(now, override)
        (root / "run.yaml").write_text(dump_yaml(now))
        with pytest.raises(ConfigError, match="another configuration"):
            train_run(load_to_train(root / "run.yaml"), progress=False)
    (root / "run.yaml").write_text(dump_yaml(before))
    weights = (root / "final" / "model.safetensors").read_bytes()
    train_run(load_to_train(root / "run.yaml"), progress=False)
    assert (root / "final" / "model.safetensors").read_bytes() == weights


def test_a_run_goes_on_where_its_text_was_moved(tiny: Tiny, tmp_path: Path, corpus: Path) -> None:
    root, elsewhere = done(tiny, tmp_path), tmp_path / "moved.txt"
    shutil.copy(corpus, elsewhere)
    weights = (root / "final" / "model.safetensors").read_bytes()
    stands_at(root, "stages/2-large/grown", 1)
    moved = load_to_train(root / "run.yaml", [f"data.source={elsewhere}"])
    train_run(moved, progress=False)
    assert (root / "final" / "model.safetensors").read_bytes() == weights
    stands_at(root, "stages/2-large/grown", 1)
    elsewhere.write_text(corpus.read_text() + "one word more\n")
    with pytest.raises(ConfigError, match="the data is not what this run began with") as told:
        train_run(moved, progress=False)
    assert "validation_tokens" in str(told.value)
    assert "description" not in str(told.value)


def test_a_moved_folder_does_not_begin_anew_at_its_old_place(tiny: Tiny, tmp_path: Path) -> None:
    root, moved = done(tiny, tmp_path), tmp_path / "moved"
    root.rename(moved)
    (moved / ".lock").unlink()  # as of a copy without hidden files
    with pytest.raises(ConfigError, match="names another output"):
        load_to_train(moved / "run.yaml")
    assert not root.exists()
    assert train_run(load_to_train(moved / "run.yaml", [f"output={moved}"]), progress=False).already_finished


def test_a_log_or_pointer_that_is_not_the_runs_is_told_before_any_training(
    tiny: Tiny, tmp_path: Path
) -> None:
    root = done(tiny, tmp_path)
    stands_at(root, "stages/2-large/grown", 1)
    run, log, latest = load_to_train(root / "run.yaml"), root / "metrics.jsonl", root / "latest.json"
    rows, pointer = log.read_bytes(), latest.read_bytes()
    log.write_bytes(rows.replace(b"\n", b"\r\n"))
    with pytest.raises(ConfigError, match="no row ends where"):
        train_run(run, progress=False)
    log.unlink()
    with pytest.raises(ConfigError, match="shorter than the checkpoint says"):
        train_run(run, progress=False)
    assert not log.exists()
    log.write_bytes(rows)
    latest.unlink()
    with pytest.raises(ConfigError, match="not its latest"):
        train_run(run, progress=False)
    assert log.read_bytes() == rows
    latest.write_bytes(pointer)
    train_run(run, progress=False)
