"""What a run of ours says about a growth: the losses around it and the curve after it, in `metrics.jsonl`.

Tokens count from the growth. As in the curves that laws describe, only validations at the full learning rate are points:
after a decay a loss lies below its curve, and in a re-warm-up beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outgrow.errors import ConfigError
from outgrow.files.metrics_file import read_rows
from outgrow.planning.curves.counting import law_parameters
from outgrow.planning.curves.curve import make_curve
from outgrow.planning.curves.metrics import config_in, number_in
from outgrow.planning.laws.power import Array, array

FEWEST = 5
"""Points without which a curve says nothing, as for laws."""
_FULL = 0.99
_Rows = Sequence[tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class GrownCurve:
    """The last growth of a run and the grown model's curve; losses are validation losses in nats per token."""

    source: str
    loss_before: float
    loss_after: float
    tokens: Array
    """Trained since the growth, at each point."""
    loss: Array
    config: Mapping[str, Any] = field(hash=False)
    """Of the grown model."""
    small: Mapping[str, Any] | None = field(hash=False)
    """Config of the model before the growth; None where the run began with the growth of a checkpoint."""
    flops: float = 0.0
    """Spent on the growth itself: fitting an operator, or trying several."""
    notes: tuple[str, ...] = ()


def read_grown_curve(path: Path) -> GrownCurve:
    """The last growth in a run's log; raises `ConfigError` with line and field.

    Refused besides broken rows: a log without a growth, a growth after the learning rate has decayed, and a curve with
    fewer than five points at the full learning rate.
    """
    rows, notes = read_rows(path)
    places = [place for place, (_, row) in enumerate(rows) if row.get("kind") == "growth"]
    if not places:
        raise ConfigError(
            f"{path}: no growth in this run",
            expected="a row of kind 'growth'",
            fix="give the metrics.jsonl of a run that grows a model; the run from scratch is `scratch`",
        )
    if len(places) > 1:
        notes += (f"{len(places)} growths in this run: the last one is measured",)
    before, here, after = rows[: places[-1]], rows[places[-1]], rows[places[-1] + 1 :]
    opening = next((one for one in after if one[1].get("kind") == "stage"), None)
    if opening is None:
        raise ConfigError(f"{path}: no row of kind 'stage' after the growth, so the grown model is not known")
    config = config_in(path, *opening)
    notes += _rate_before(path, before)
    found = [one for one in after if one[1].get("kind") == "validation"]
    curve = make_curve(
        str(path),
        law_parameters(config, "all"),
        [number_in(path, *one, "tokens") for one in found],
        [number_in(path, *one, "val_loss") for one in found],
        places=[f"line {line}" for line, _ in found],
        names=("tokens", "val_loss"),
    )
    full = _at_full_rate(path, after, curve.tokens)
    if full.sum() < FEWEST:
        raise ConfigError(
            f"{path}: too few points at the full learning rate after the growth",
            got=f"{int(full.sum())} of {len(full)}",
            expected=f"at least {FEWEST}",
            fix="evaluate more often (evaluation.every_tokens), or grow earlier in the stable part of a wsd schedule",
        )
    if not full.all():
        notes += (f"{int((~full).sum())} points in re-warm-up or decay left out",)
    smaller = [config_in(path, *one) for one in before if one[1].get("kind") == "stage"]
    return GrownCurve(
        source=str(path),
        loss_before=_loss(path, *here, "loss_before"),
        loss_after=_loss(path, *here, "loss_after"),
        tokens=curve.tokens[full] - number_in(path, *here, "tokens"),
        loss=curve.loss[full],
        config=config,
        small=smaller[-1] if smaller else None,
        flops=float(opening[1].get("probe_flops", 0.0)),
        notes=notes,
    )


def _loss(path: Path, line: int, row: dict[str, Any], name: str) -> float:
    value = number_in(path, line, row, name)
    if not np.isfinite(value) or value <= 0:
        raise ConfigError(f"{path}, line {line}: {name} is not a positive number", got=value)
    return value


def _rates(path: Path, rows: _Rows) -> tuple[Array, Array]:
    """(tokens, share of the stage's peak) of every row that has a learning rate."""
    tokens, share, peak = [], [], float("nan")
    for line, row in rows:
        if row.get("kind") == "stage":
            peak = number_in(path, line, row, "peak")
        elif row.get("kind") == "train":
            tokens.append(number_in(path, line, row, "tokens"))
            share.append(number_in(path, line, row, "lr") / peak)
    return array(tokens), array(share)


def _rate_before(path: Path, before: _Rows) -> tuple[str, ...]:
    """The loss before the growth is a point like all others: at the full learning rate, as far as the run says."""
    _, share = _rates(path, before)
    if not len(share):
        return (
            "the run began with the growth: the learning rate before it is not known, and is taken to be full",
        )
    if not share[-1] >= _FULL:
        raise ConfigError(
            f"{path}: the model was grown while the learning rate was below its peak",
            got=f"{share[-1]:.0%} of the peak",
            expected="the full learning rate: a decayed loss is not on the curve",
            fix="grow in the stable part: schedule constant, or wsd with a smaller decay_share",
        )
    return ()


def _at_full_rate(path: Path, after: _Rows, tokens: Array) -> NDArray[np.bool_]:
    """Which points have the full learning rate in the logged rows on both sides of them."""
    places, share = _rates(path, after)
    if not len(places):
        raise ConfigError(
            f"{path}: no row of kind 'train' after the growth, so the learning rate is not known"
        )
    return np.asarray(np.interp(tokens, places, (share >= _FULL).astype(float)) == 1.0)
