"""Compiled models compute what plain ones do, across a growth and frozen tensors, and a run that was killed ends in the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config as inductor

from outgrow.engine.step import Device, check_compiler
from outgrow.errors import ConfigError
from outgrow.run.run_file import parse_run
from outgrow.training import loop, train_run
from outgrow.training.folder import read_metrics

Tiny = Callable[..., dict[str, Any]]
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile wants a C++ compiler",
)


@pytest.fixture(autouse=True)
def _forget() -> Any:
    """What was compiled, and torch's limits, as before; compiled here, as every process of its own would import torch."""
    config = torch._dynamo.config
    limits = {name: getattr(config, name) for name in ("recompile_limit", "accumulated_recompile_limit")}
    with config.patch(**limits), inductor.patch(compile_threads=1):
        yield
    torch.compiler.reset()


def losses(folder: Path) -> list[float]:
    rows = read_metrics(folder / "metrics.jsonl")
    return [row.get("val_loss", row.get("loss")) for row in rows if row["kind"] in ("train", "validation")]


@needs_compiler
def test_a_compiled_run_is_the_plain_one(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiler that users have: one stage, and no function before it, because every graph takes it seconds."""
    monkeypatch.setattr("outgrow.training.preflight.check_compiler", lambda device: None)
    run = tiny()
    run["model"]["attention_dropout"] = 0.0  # compiled code draws other random numbers
    run["stages"] = run["stages"][:1]
    for name in ("plain", "compiled"):
        train_run(
            parse_run({**run, "output": str(tmp_path / name), "compile": name == "compiled"}), progress=False
        )
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)


def test_a_compiled_run_grows_freezes_and_continues_in_the_same_bits(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs are traced as for any backend and run as they are: what is tested is when they are made anew.

    What was on the disk after the fifth checkpoint is what a kill there leaves: three of the four steps with frozen norms are done.
    """
    real_compile = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: real_compile(self, backend="eager", **how)
    )
    monkeypatch.setattr("outgrow.training.preflight.check_compiler", lambda device: None)
    run = tiny()
    run["model"]["attention_dropout"] = 0.0  # compiled code draws other random numbers
    run["stages"][1]["freeze"] = {"what": ["*norm*"], "tokens": 256}

    def trained(name: str, **more: Any) -> Path:
        train_run(parse_run({**run, "output": str(tmp_path / name), **more}), progress=False)
        return tmp_path / name

    real, saves = loop.save_checkpoint, []

    def kept(*arguments: Any) -> None:
        real(*arguments)
        saves.append(arguments)
        if len(saves) == 5:
            shutil.copytree(tmp_path / "compiled", tmp_path / "cut")

    monkeypatch.setattr(loop, "save_checkpoint", kept)
    compiled = trained("compiled", compile=True)
    monkeypatch.setattr(loop, "save_checkpoint", real)
    assert losses(compiled) == pytest.approx(losses(trained("plain")), rel=1e-4)
    machine = next(row for row in read_metrics(compiled / "metrics.jsonl") if row["kind"] == "machine")
    assert machine["device"].endswith("compiled")

    whole = (compiled / "final" / "model.safetensors").read_bytes()
    compiled.rename(tmp_path / "whole")
    (tmp_path / "cut").rename(compiled)
    assert not (compiled / "final").exists()
    assert (trained("compiled", compile=True) / "final" / "model.safetensors").read_bytes() == whole


def test_a_missing_compiler_is_found_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    check_compiler(Device("cpu", False))  # nothing is to be compiled

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("\nNo working C++ compiler found")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(ConfigError, match=r"got: +No working C\+\+ compiler found"):
        check_compiler(Device("cpu", False, compiled=True))


def test_masks_cannot_be_compiled(tiny: Tiny) -> None:
    run = tiny(compile=True)
    run["stages"][1]["masks"] = {"rise_tokens": 128}
    with pytest.raises(ConfigError, match=r"stages\[1\]\.masks change the model at every step"):
        parse_run(run)
