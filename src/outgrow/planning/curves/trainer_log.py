"""The curve of a Hugging Face Trainer: `log_history` of its `trainer_state.json`.

loss = eval_loss, or the training loss where nothing was evaluated     (or the series `tag`)
tokens = num_input_tokens_seen, or step * tokens_per_step
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from outgrow.cost.flops import model_cost
from outgrow.errors import ConfigError, near
from outgrow.files.reading import parse_json, read_text
from outgrow.planning.curves.counting import ParameterCount, law_parameters
from outgrow.planning.curves.curve import Curve, make_curve
from outgrow.planning.curves.curve_file import CurveFile
from outgrow.planning.curves.metrics import number_at
from outgrow.store.growth_log import GROWTHS

STATE_FILE = "trainer_state.json"
_LONGEST = 1 << 30
"""Bytes: two million entries."""
_TOKENS = "num_input_tokens_seen"
_NO_LOSS = frozenset({"step", "epoch", "learning_rate", "grad_norm", "total_flos", _TOKENS, GROWTHS})
_SLACK = 2.0
"""Trainer counts padding and no attention; a wrong batch is out by more."""
_Entry = tuple[str, Mapping[str, Any]]


def state_file(folder: Path) -> Path | None:
    """`trainer_state.json` of a checkpoint, or of a run's last checkpoint: its log goes back to the beginning."""
    if (folder / STATE_FILE).is_file():
        return folder / STATE_FILE
    found = {
        int(n): path for path in folder.glob(f"checkpoint-*/{STATE_FILE}") if (n := _number(path)).isdecimal()
    }
    return found[max(found)] if found else None


def _number(path: Path) -> str:
    return path.parent.name.removeprefix("checkpoint-")


def read_trainer_curve(path: Path, file: CurveFile, count: ParameterCount) -> Curve:
    """Tokens and loss of a Trainer's log; the model is that of the `config.json` beside it, or of `parameters`.

    Raises `ConfigError` with the entry and the key. Refused besides: a log of a model that was grown, and tokens per step
    that do not fit the FLOPs that Trainer counted.
    """
    state = parse_json(read_text(path, _LONGEST), str(path))
    log = _log(path, state)
    name = _loss(path, log, file.tag)
    entries, notes = _entries(path, log, name)
    config = _config(path) if file.parameters is None else None
    parameters = file.parameters_of() if config is None else law_parameters(config, count)
    per_step = _tokens_per_step(path, entries, file)
    if config is not None and per_step is not None and "vocab_size" in config:
        _check_flops(path, state, config, per_step)

    def tokens(some: Sequence[_Entry]) -> list[float]:
        if per_step is None:
            return [number_at(place, entry, _TOKENS) for place, entry in some]
        return [per_step * number_at(place, entry, "step") for place, entry in some]

    rated = [one for one in _at(path, log, "learning_rate") if per_step is not None or _TOKENS in one[1]]
    curve = make_curve(
        str(path),
        parameters,
        tokens(entries),
        [number_at(place, entry, name) for place, entry in entries],
        places=[place.removeprefix(f"{path}, ") for place, _ in entries],
        names=("step" if per_step is not None else _TOKENS, name),
        rates=(tokens(rated), [_rate(*one) for one in rated]) if rated else None,
        notes=notes,
    )
    return replace(curve, config=config)


def _log(path: Path, state: Any) -> list[Mapping[str, Any]]:
    log = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(log, list):
        raise ConfigError(
            f"{path}: no list log_history",
            got=type(state).__name__ if not isinstance(state, dict) else log,
            fix=f"give a Trainer's {STATE_FILE}",
        )
    for place, entry in enumerate(log):
        if not isinstance(entry, dict):
            raise ConfigError(f"{path}, log_history[{place}]: not an object", got=entry)
        if GROWTHS in entry:
            raise ConfigError(
                f"{path}, log_history[{place}]: this run was grown, so it is no training from scratch",
                got=f"a growth at step {entry.get('step')}",
                fix="fit to a checkpoint from before the growth",
            )
    return log


def _at(path: Path, log: Sequence[Mapping[str, Any]], name: str) -> list[_Entry]:
    """The entries that hold a key, each with its place in words."""
    return [(f"{path}, log_history[{n}]", entry) for n, entry in enumerate(log) if name in entry]


def _loss(path: Path, log: Sequence[Mapping[str, Any]], tag: str | None) -> str:
    known = {name for entry in log for name in entry} - _NO_LOSS
    if tag is not None and tag not in known:
        raise ConfigError(f"{path}: no entry of log_history has '{tag}'", expected=near(tag, known))
    name = tag or next((name for name in ("eval_loss", "loss") if name in known), None)
    if name is None:
        raise ConfigError(
            f"{path}: no entry of log_history has a loss",
            got=", ".join(sorted(known)) or "nothing",
            expected="eval_loss or loss",
            fix="give tag: <key>, as eval_mydata_loss with several evaluation sets",
        )
    return name


def _entries(path: Path, log: Sequence[Mapping[str, Any]], name: str) -> tuple[list[_Entry], tuple[str, ...]]:
    """The points: of a step that was evaluated twice the later one, and none before the first step; both noted."""
    found: list[_Entry] = []
    early = twice = 0
    for place, entry in _at(path, log, name):
        step = number_at(place, entry, "step")
        if step == 0:
            early += 1
            continue
        if found and step == found[-1][1]["step"]:
            twice += 1
            found.pop()
        found.append((place, entry))
    notes = [] if name != "loss" else ["training loss, the mean of the steps between two entries"]
    notes += [f"{early} points before the first step left out"] if early else []
    notes += [f"{twice} steps were logged twice: the later counts"] if twice else []
    return found, tuple(notes)


def _config(path: Path) -> Mapping[str, Any]:
    beside = path.parent / "config.json"
    if not beside.is_file():
        raise ConfigError(
            f"{path}: the file does not say how many parameters the model has",
            fix="keep the model's config.json beside it, or give parameters in plan.yaml as curves: [{path: ..., parameters: 10M}]",
        )
    config = parse_json(read_text(beside, _LONGEST), str(beside))
    if not isinstance(config, dict):
        raise ConfigError(f"{beside} is not a JSON object", got=type(config).__name__)
    return config


def _tokens_per_step(path: Path, entries: Sequence[_Entry], file: CurveFile) -> float | None:
    """None where Trainer counted tokens itself."""
    counted = [place for place, entry in entries if _TOKENS in entry]
    if not counted:
        if file.tokens_per_step is None:
            raise ConfigError(
                f"{path}: the log counts steps, not tokens",
                fix="give tokens_per_step, in plan.yaml as curves: [{path: ..., tokens_per_step: 64k}], "
                f"or train with include_{_TOKENS}=True",
            )
        return file.tokens_per_step
    file.refuse("tokens_per_step", why=f"the log has {_TOKENS}")
    without = [place for place, entry in entries if _TOKENS not in entry]
    if without:
        raise ConfigError(
            f"{without[0]}: no {_TOKENS}, which other entries have",
            fix="the count was switched on in mid-run: remove the entries without it",
        )
    return None


def _check_flops(path: Path, state: Mapping[str, Any], config: Mapping[str, Any], per_step: float) -> None:
    """Trainer counts 6 FLOPs per token and parameter, embeddings left out; that tells a batch that is meant otherwise."""
    flops = number_at(str(path), state, "total_flos") if state.get("total_flos") else 0.0
    steps = number_at(str(path), state, "global_step") if state.get("global_step") else 0.0
    if not (0 < flops < math.inf and 0 < steps < math.inf):
        return
    cost = model_cost(config)
    least, most = (flops / steps / (6 * size) for size in (cost.parameters, cost.non_embedding))
    if not least / _SLACK <= per_step <= most * _SLACK:
        raise ConfigError(
            f"{path}: tokens_per_step does not fit total_flos, which Trainer counted",
            got=f"{per_step:.6g} tokens per step",
            expected=f"{least:.3g} to {most:.3g}, from {flops:.4g} FLOPs in {steps:.0f} steps",
            fix="count all of a step's tokens: sequences of all devices, accumulation too, times their length",
        )


def _rate(place: str, entry: Mapping[str, Any]) -> float:
    rate = number_at(place, entry, "learning_rate")
    if not math.isfinite(rate):
        raise ConfigError(f"{place}: learning_rate is not a finite number", got=rate)
    return rate
