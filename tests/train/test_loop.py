"""The loop on a tiny model: it learns, grows, stops on nonsense, and a killed run ends in the same bits."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from outgrow.data.needs import TextNeeds, model_config
from outgrow.engine.memory import step_memory
from outgrow.engine.optimizers import build_optimizer
from outgrow.engine.step import Device, build_for_training, choose_device, evaluation_loss, optimizer_step
from outgrow.errors import CheckpointError, OutgrowError, TrainingError
from outgrow.files.locks import RunBusyError, locked
from outgrow.run.optimizer_config import AdamWConfig
from outgrow.run.run_file import parse_run
from outgrow.training import dry, dry_run, train_run
from outgrow.training.folder import read_metrics
from outgrow.training.preflight import preflight

Tiny = Callable[..., dict[str, Any]]
TIMES = ("seconds", "tokens_per_second", "growth_seconds")


def rows_without_times(folder: Path) -> list[dict[str, Any]]:
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] != "machine"]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def bits(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def test_a_run_that_goes_on_elsewhere_says_so(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import outgrow.training.log_rows as log_rows
    import outgrow.training.loop as loop

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    real, here = loop._leave, log_rows.machine()
    for system in (None, "another system", "another system"):
        monkeypatch.setattr(loop, "_leave", killed)
        if system is not None:
            monkeypatch.setattr(log_rows, "machine", lambda system=system: {**here, "system": system})
        with pytest.raises(KeyboardInterrupt):
            train_run(parse_run(tiny()), progress=False)
    monkeypatch.setattr(loop, "_leave", real)
    train_run(parse_run(tiny()), progress=False)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["system"] for row in rows if row["kind"] == "machine"] == [here["system"], "another system"]


def test_a_run_learns_grows_and_reports(tiny: Tiny, tmp_path: Path) -> None:
    run = parse_run(tiny())
    result = train_run(run, progress=False)
    small, large = result.stages
    assert (small.name, large.name) == ("small", "large")
    assert large.parameters > small.parameters
    assert small.tokens == large.tokens == 64 * 12
    assert small.final_loss is not None
    assert large.final_loss is not None
    assert large.loss_before_growth == small.final_loss
    assert large.loss_after_growth is not None
    assert large.final_loss < small.final_loss < 5.0

    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in steps] == sorted({row["step"] for row in steps})
    assert steps[-1]["tokens"] == run.total_tokens
    assert steps[-1]["flops"] == pytest.approx(small.flops + large.flops)
    assert {"stage", "step", "tokens", "flops", "loss", "lr", "grad_norm", "tokens_per_second"} <= steps[
        0
    ].keys()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = train_run(run, progress=False)
    assert again.already_finished
    assert again.stages == result.stages
    assert {
        p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file() and p.name != ".lock"
    } == {path: time for path, time in before.items() if path.name != ".lock"}


def test_the_final_state_opens_with_transformers(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from outgrow.state.training_state import TrainingState

    run = parse_run(tiny(stages=[{"name": "only", "tokens": 192}]))
    train_run(run, progress=False)
    final = tmp_path / "run" / "final"
    model = AutoModelForCausalLM.from_pretrained(final)
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(final))
    state = TrainingState.from_pretrained(final)
    assert set(state.steps.values()) == {3.0}
    assert state.records["schedule"]["tokens"] == 192

    more = parse_run(
        {
            **tiny(model=None, output=str(tmp_path / "more")),
            "stages": [{"name": "go", "from": str(final), "tokens": 64}],
        }
    )
    train_run(more, progress=False)
    assert set(TrainingState.from_pretrained(tmp_path / "more" / "final").steps.values()) == {4.0}


def test_a_first_stage_can_grow_a_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    train_run(parse_run(tiny(stages=[{"name": "only", "tokens": 192}])), progress=False)
    final = tmp_path / "run" / "final"
    grow = {"to": {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 3}, "noise": 0.0}
    stages = [{"name": "go", "from": str(final), "grow": grow, "tokens": 64}]
    data = {
        key: value for key, value in tiny()["data"].items() if key != "tokenizer"
    }  # the checkpoint brings its own
    result = train_run(
        parse_run(tiny(model=None, output=str(tmp_path / "more"), stages=stages, data=data)), progress=False
    )
    (stage,) = result.stages
    assert stage.loss_before_growth == pytest.approx(
        stage.loss_after_growth, rel=1e-5
    )  # isometric keeps the function


def test_a_killed_run_ends_in_the_same_bits(tiny: Tiny, tmp_path: Path, cache: Path) -> None:
    paths = []
    for name in ("whole", "killed"):
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(tiny(output=str(tmp_path / name))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OUTGROW_CACHE": str(cache)}
    command = [sys.executable, str(Path(__file__).with_name("killer.py")), *map(str, paths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = bits(tmp_path / "whole" / "final")
    assert len(whole) >= 2  # weights and moments
    assert bits(tmp_path / "killed" / "final") == whole
    assert rows_without_times(tmp_path / "killed") == rows_without_times(tmp_path / "whole")


def test_another_configuration_in_the_same_folder(tiny: Tiny) -> None:
    stages = [{"name": "only", "tokens": 192}]
    train_run(parse_run(tiny(stages=stages)), progress=False)
    with pytest.raises(OutgrowError, match=r"optimizer\.learning_rate \(was 0.01, is 0.02\)"):
        train_run(parse_run(tiny(stages=stages, optimizer={"learning_rate": 2e-2})), progress=False)


def test_a_run_of_an_older_outgrow_continues(tiny: Tiny) -> None:
    run = parse_run(tiny(stages=[{"name": "only", "tokens": 192}]))
    train_run(run, progress=False)
    file = Path(run.output) / "run.yaml"
    written = yaml.safe_load(file.read_text())
    del written["compile"]  # a key that it did not know
    file.write_text(yaml.safe_dump(written))
    assert train_run(run, progress=False).already_finished


def test_a_folder_in_use(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"), pytest.raises(OutgrowError, match="another run is working"):
        train_run(parse_run(tiny()), progress=False)


def test_a_folder_of_something_else(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutgrowError, match=r"not made by outgrow(.|\n)*thesis\.tex"):
        train_run(parse_run(tiny()), progress=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_folder_with_a_run_file_of_ones_own(tiny: Tiny, tmp_path: Path) -> None:
    """`output: .` in a project: nothing there is a run's, whatever its name."""
    for name in ("tokenizer/vocab.txt", "final/model.bin", "run.yaml", "metrics.jsonl"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(OutgrowError, match="not made by outgrow"):
        train_run(parse_run(tiny()), progress=False)
    found = sorted(path for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert [path.read_text() for path in found] == ["mine"] * 4


def test_a_start_that_was_killed_early_is_started_again(tiny: Tiny, tmp_path: Path) -> None:
    """All that is there: the lock, and a run.yaml that was half written."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    leftover = folder / "run.yaml.tmp-0123456789abcdef"
    leftover.write_text("outp")
    with locked(folder), pytest.raises(RunBusyError):
        train_run(parse_run(tiny()), progress=False)
    assert train_run(parse_run(tiny()), progress=False).stages


def test_divergence_names_the_step_and_the_last_checkpoint(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from outgrow.training import loop

    def diverging(*arguments: Any, **options: Any) -> Any:
        step = optimizer_step(*arguments, **options)
        return step if options["seed"][1] < 4 else type(step)(float("nan"), 1.0)

    monkeypatch.setattr(loop, "optimizer_step", diverging)
    with pytest.raises(TrainingError, match=r"diverged at step 5 \(stage small\)(.|\n)*step-00000003"):
        train_run(parse_run(tiny()), progress=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"model_type": "lama"}}, "did you mean llama"),
        (
            {"model": {"model_type": "llama", "hiden_size": 3}},
            "model.hiden_size(.|\n)*did you mean hidden_size",
        ),
        (
            {"model": {"model_type": "llama", "max_position_embeddings": 8}},
            "longer than the model's positions",
        ),
        ({"model": {"model_type": "llama", "vocab_size": 100}}, "fewer vocabulary rows"),
        ({"data": {"source": "nowhere/*.txt", "tokenizer": {"vocab_size": 300}}}, "finds no text"),
        (
            {"data": {"validation_source": "nowhere.txt", "tokenizer": {"vocab_size": 300}}},
            r"data\.validation_source finds no text",
        ),
        ({"data": {"tokenizer": {"path": "nowhere"}}}, "no tokenizer.json"),
    ],
)
def test_mistakes_are_found_before_any_work(
    change: dict[str, Any], words: str, tiny: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(OutgrowError, match=words):
        train_run(parse_run(tiny(**change)), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_growth_that_cannot_be_is_found_before_any_work(tiny: Tiny, tmp_path: Path) -> None:
    data = tiny()
    data["stages"][1]["grow"]["to"] = {"hidden_size": 8}
    with pytest.raises(OutgrowError, match=r"stages\.1\.grow"):
        train_run(parse_run(data), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_cannot_read_the_data_is_found_before_any_work(tiny: Tiny, tmp_path: Path) -> None:
    """Its loss before the growth is measured on the same tokens, and it has no rows for the new ones."""
    train_run(parse_run(tiny(output=str(tmp_path / "small"), stages=tiny()["stages"][:1])), progress=False)
    run = tiny(data={**tiny()["data"], "tokenizer": {"vocab_size": 320}})
    del run["model"]
    start, grow = str(tmp_path / "small" / "final"), {"to": {"vocab_size": 320}}
    run["stages"] = [{"name": "large", "tokens": 64, "from": start, "grow": grow}]
    with pytest.raises(OutgrowError, match="the checkpoint cannot take the data before it grows"):
        train_run(parse_run(run), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_may_begin_without_layers(tiny: Tiny) -> None:
    """arXiv 2511.04981: the first model is an embedding and a head."""
    run = tiny()
    run["model"]["num_hidden_layers"] = 0
    run["stages"][1]["grow"] = {"to": {"num_hidden_layers": 2}, "depth": "random"}
    small, large = train_run(parse_run(run), progress=False).stages
    assert small.parameters < large.parameters
    with pytest.raises(OutgrowError, match="has no matrices for Muon"):
        dry_run(parse_run({**run, "optimizer": {"name": "muon"}}))
    run["stages"][1]["reentry"] = {"position": "loss_matched"}
    with pytest.raises(OutgrowError, match="for doublings only"):
        dry_run(parse_run(run))


def test_endless_noise_is_found_before_any_work(tiny: Tiny, tmp_path: Path) -> None:
    content = tiny()
    content["stages"][1]["grow"]["noise"] = 1e300
    with pytest.raises(OutgrowError, match="noise is a standard deviation"):
        train_run(parse_run(content), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_never_runs_a_training_batch(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its speed comes from forward passes over a few sequences, without gradients; of none where they do not fit."""
    run = parse_run(tiny(batch={"sequences": 8}))
    plan, device, seen = preflight(run).stages[0], choose_device(run), list[int]()
    forward = dry.evaluation_loss

    def counted(model: torch.nn.Module, batches: Any, device: Any) -> float:
        assert not torch.is_grad_enabled()
        seen.extend(len(inputs) for inputs, _ in batches)
        return forward(model, batches, device)

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a dry run trains")

    monkeypatch.setattr(dry, "evaluation_loss", counted)
    monkeypatch.setattr(torch.autograd, "backward", refused)
    monkeypatch.setattr(torch.optim.Optimizer, "__init__", refused)
    seconds = dry_run(run).seconds
    assert seconds is not None
    assert 0 < seconds < math.inf
    assert set(seen) == {4}
    memory = step_memory(run, plan.config, device, 4)
    needed = memory.weights + memory.activations + memory.logits
    for free, measured in ((4 * needed, True), (4 * needed - 1, False)):
        seen.clear()
        monkeypatch.setattr(dry, "free_memory", lambda device, free=free: free)
        assert (dry._measured_rate(run, plan, device) is not None) == measured == bool(seen)


def test_a_dry_run_knows_the_sizes_and_writes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    run = parse_run(tiny())
    dry = dry_run(run)
    assert not (tmp_path / "run").exists()
    result = train_run(run, progress=False)
    assert [stage.flops for stage in dry.stages] == [pytest.approx(stage.flops) for stage in result.stages]
    assert [stage.parameters for stage in dry.stages] == [stage.parameters for stage in result.stages]
    json.dumps(dry.as_dict())


def test_a_dry_run_refuses_a_disk_that_is_too_full(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, usage = parse_run(tiny()), namedtuple("usage", "total used free")
    needed = dry_run(run).disk_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10 * needed, 0, needed - 1))
    with pytest.raises(CheckpointError, match="too full"):
        dry_run(run)
    (tmp_path / "run" / "stages").mkdir(parents=True)
    (tmp_path / "run" / "stages" / "saved").write_bytes(
        bytes(1)
    )  # a run that is continued writes over its own
    dry_run(run)


def _step(model: torch.nn.Module, micro_batch: int, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
    optimizer = build_optimizer(model, AdamWConfig())
    options: dict[str, Any] = {
        "learning_rate": 1e-3,
        "clip": 1.0,
        "device": Device("cpu", False),
        "seed": (0, 0),
    }
    return optimizer_step(model, optimizer, batch, micro_batch=micro_batch, **options).loss


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    fields = {
        "model_type": "gpt2",
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    }
    content = model_config({**fields, "attn_pdrop": 0.0}, TextNeeds(30, 8, 0))
    tokens = torch.randint(30, (4, 9), generator=torch.Generator().manual_seed(0))
    batch = tokens[:, :-1], tokens[:, 1:]
    models = []
    for micro_batch in (4, 1):
        torch.manual_seed(0)
        models.append(build_for_training(content))
        assert _step(models[-1], micro_batch, batch) == pytest.approx(3.4, abs=0.1)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-3, atol=2e-5
        )  # one Adam step turns rounding of g into that of g/|g|
    assert evaluation_loss(models[0], [batch], Device("cpu", False)) < 3.4


def test_vectors_do_not_decay() -> None:
    content = model_config(
        {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2},
        TextNeeds(30, 8, 0),
    )
    optimizer = build_optimizer(build_for_training(content), AdamWConfig(weight_decay=0.3))
    decays = {
        name: group["weight_decay"] for group in optimizer.param_groups for name in group["param_names"]
    }
    assert decays["transformer.wte.weight"] == decays["transformer.h.0.attn.c_attn.weight"] == 0.3
    assert decays["transformer.ln_f.weight"] == decays["transformer.h.0.attn.c_attn.bias"] == 0.0
