"""Curves from TensorBoard event files, read by TensorBoard's own reader (the extra `tensorboard`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from outgrow.errors import ConfigError, near
from outgrow.planning.curves.curve import RATE_NAMES, Curve, make_curve

_LOSS = "validation/val_loss"
"""What a run of ours calls it."""


def is_event_file(path: Path) -> bool:
    """Whether this is an event file, or a folder that holds some."""
    return "tfevents" in path.name or (path.is_dir() and any(path.glob("*tfevents*")))


def read_event_curve(path: Path, parameters: float, tokens_per_step: float, tag: str | None = None) -> Curve:
    """One scalar (`tag`, or `validation/val_loss`) against its steps. Where a killed run went on, the later writing counts."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            f"{path}: TensorBoard files need the library tensorboard",
            fix="pip install -e '.[tensorboard]' in outgrow's clone",
        )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tag = tag or _LOSS
    events = EventAccumulator(str(path), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    if tag not in tags:
        raise ConfigError(f"{path}: no scalar '{tag}'", expected=near(tag, tags), fix="give tag: <scalar>")
    points = events.Scalars(tag)
    rate = next((name for name in RATE_NAMES if name in tags), None)
    rates = None
    if rate is not None:
        rates = (
            [point.step * tokens_per_step for point in events.Scalars(rate)],
            [point.value for point in events.Scalars(rate)],
        )
    return make_curve(
        str(path),
        parameters,
        [point.step * tokens_per_step for point in points],
        [point.value for point in points],
        places=[f"step {point.step}" for point in points],
        names=("step", tag),
        rates=rates,
    )
