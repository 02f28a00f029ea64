"""The law of a plan: published, given by constants, or fitted to curves; for each size a curve, and its bootstrap draws."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outgrow.errors import ConfigError
from outgrow.files.reading import expanded
from outgrow.planning.config import ChinchillaLaw, CurveConfig, FitLaw, KaplanLaw, PlanConfig
from outgrow.planning.curves import Curve, CurveFile, check_falls, read_curves, select
from outgrow.planning.laws import (
    CHINCHILLA,
    CHINCHILLA_REPLICATED,
    KAPLAN_BATCH,
    KAPLAN_STEPS,
    STAGED_TRAINING,
    Array,
    Chinchilla,
    CriticalBatch,
    FittedLaw,
    KaplanSteps,
    PowerCurve,
    Range,
    fit_law,
)
from outgrow.planning.laws.forms import CHINCHILLA_FORM, CURVE_FORM

CurveOf = Callable[[float], PowerCurve]
"""A size's learning curve from its parameters."""

_KAPLAN_RANGES = {
    "parameters": Range(768, 1.5e9),
    "tokens": Range(2.2e7, 2.3e10),
}  # arXiv 2001.08361, section 1
_CHINCHILLA_RANGES = {
    "parameters": Range(7e7, 1.6e10),
    "tokens": Range(5e9, 5e11),
}  # arXiv 2203.15556, section 1


@dataclass(frozen=True)
class SizeLaw:
    """`best` gives a size's curve; `draws` the same under other outcomes of the fit (none for a published law)."""

    best: CurveOf
    draws: tuple[CurveOf, ...]
    words: str
    ranges: Mapping[str, Range]
    fitted: tuple[FittedLaw[Any], ...] = ()
    curves: tuple[Curve, ...] = ()
    batch: CriticalBatch | None = None
    """Of each stage by its end loss: then the curves count steps. None: one batch for all, and they count tokens."""
    own: Callable[[float], FittedLaw[PowerCurve]] | None = None
    """By its parameters, the fit of a size that has a curve of its own."""

    def seen(self, parameters: float) -> Mapping[str, Range]:
        """What the law of a size has seen, by column."""
        return self.ranges if self.own is None else self.own(parameters).ranges


def planned_law(plan: PlanConfig, extra: Sequence[CurveConfig], target_loss: float | None) -> SizeLaw:
    """The law of a plan file; curves given beside the file (`--fit`) replace its law by a fit."""
    law = plan.law
    if extra and not isinstance(law, FitLaw):
        law = FitLaw(count=law.count)
    if isinstance(law, FitLaw):
        return fitted_law(law, extra)
    if isinstance(law, ChinchillaLaw):
        published = CHINCHILLA if law.version == "published" else CHINCHILLA_REPLICATED
        chosen = published if law.constants is None else Chinchilla(**law.constants.model_dump())
        ranges = _CHINCHILLA_RANGES if law.constants is None else {}
        words = f"Chinchilla's law, {law.version} constants" if law.constants is None else f"given: {chosen}"
        return SizeLaw(chosen.curve, (), words, ranges)
    return _kaplan(law, target_loss)


def _kaplan(law: KaplanLaw, target_loss: float | None) -> SizeLaw:
    published = KAPLAN_STEPS if law.version == "published" else STAGED_TRAINING
    steps = published if law.constants is None else KaplanSteps(**law.constants.model_dump())
    ranges = _KAPLAN_RANGES if law.constants is None else {}
    critical = (
        KAPLAN_BATCH if law.critical_batch is None else CriticalBatch(**law.critical_batch.model_dump())
    )
    if law.batch == "critical":
        words = f"Kaplan's law, each stage at the critical batch of its end loss, {critical.words()}"
        return SizeLaw(steps.step_curve, (), words, ranges, batch=critical)
    if law.batch_tokens is None and target_loss is None:
        raise ConfigError("law.batch_tokens is missing: without target.loss the critical batch is not known")
    batch = float(law.batch_tokens or critical.tokens(target_loss or 1.0))
    words = f"Kaplan's law at a fixed batch of {batch:.3g} tokens"
    return SizeLaw(lambda parameters: steps.curve(parameters, batch), (), words, ranges)


def fitted_law(law: FitLaw, extra: Sequence[CurveConfig] = ()) -> SizeLaw:
    """A law fitted to all curves of the section and `extra`."""
    read = [
        curve
        for config in (*law.curves, *extra)
        for path in matching_files(config.path)
        for curve in read_curves(
            CurveFile(path, config.parameters, config.tokens_per_step, config.tag), law.count
        )
    ]
    _check_differ(read)
    curves = tuple(select(check_falls(curve), law.points, law.from_tokens) for curve in read)
    if not curves:
        raise ConfigError(
            "law.kind is fit, but no curves are given", fix="name them in law.curves, or with --fit FILE"
        )
    return _per_size(law, curves) if law.form == "per_size" else _joint(law, curves)


def _check_differ(curves: Sequence[Curve]) -> None:
    """No run is given twice, by its file and its folder, say: it would count double, and its interval be too narrow."""
    seen: dict[bytes, str] = {}
    for curve in curves:
        points = np.concatenate([[curve.parameters], curve.tokens, curve.loss]).tobytes()
        if points in seen:
            raise ConfigError(
                "a curve is given twice: these have the same points",
                got=f"{seen[points]} and {curve.source}",
                fix="give every run once",
            )
        seen[points] = curve.source


def matching_files(pattern: str) -> list[Path]:
    """The curve files or run folders of a path or glob, in the order of their names."""
    found = sorted(glob.glob(str(expanded(pattern)), recursive=True))
    if not found:
        raise ConfigError(f"no curve file matches: {pattern}")
    return [Path(path) for path in found]


def _joint(law: FitLaw, curves: tuple[Curve, ...]) -> SizeLaw:
    columns, loss, number = _points(curves)
    fitted = fit_law(CHINCHILLA_FORM, columns, loss, number, draws=law.draws, seed=law.seed)
    sizes = len(np.unique(columns["parameters"]))
    return SizeLaw(
        best=fitted.law.curve,
        draws=tuple(draw.curve for draw in fitted.draws),
        words=f"fitted to {len(loss)} points of {len(curves)} curves, {sizes} sizes: {fitted.law}",
        ranges=fitted.ranges,
        fitted=(fitted,),
        curves=curves,
    )


def _per_size(law: FitLaw, curves: tuple[Curve, ...]) -> SizeLaw:
    """All runs of a size are one curve's points."""
    fits: dict[float, FittedLaw[PowerCurve]] = {}
    for size in sorted({curve.parameters for curve in curves}):
        columns, loss, number = _points([curve for curve in curves if curve.parameters == size])
        try:
            fits[size] = fit_law(
                CURVE_FORM, columns, loss, number, draws=law.draws, seed=law.seed + len(fits)
            )
        except ConfigError as error:
            raise ConfigError(f"the curve of {size:.4g} parameters: {error}") from None
    least = min(len(fit.draws) for fit in fits.values())

    def nearest(parameters: float) -> FittedLaw[PowerCurve]:
        size = min(fits, key=lambda one: abs(np.log(one / parameters)))
        if abs(size / parameters - 1) > 0.02:
            raise ConfigError(
                f"no curve of a model with {parameters:.4g} parameters",
                got=", ".join(f"{one:.4g}" for one in sorted(fits)),
                fix="give one curve per candidate, or law.form: chinchilla",
            )
        return fits[size]

    def draw(number: int) -> CurveOf:
        return lambda parameters: nearest(parameters).draws[number]

    tokens = np.concatenate([curve.tokens for curve in curves])
    return SizeLaw(
        best=lambda parameters: nearest(parameters).law,
        draws=tuple(draw(number) for number in range(least)),
        words=f"each size's own curve, fitted to {len(tokens)} points of {len(curves)} runs",
        ranges={
            "parameters": Range(min(fits), max(fits)),
            "tokens": Range(float(tokens.min()), float(tokens.max())),
        },
        fitted=tuple(fits.values()),
        curves=curves,
        own=nearest,
    )


def _points(curves: Sequence[Curve]) -> tuple[dict[str, Array], Array, Array]:
    """Columns, losses, and the number of the curve that each point belongs to."""
    columns = {
        "parameters": np.concatenate([np.full(len(c.tokens), c.parameters) for c in curves]),
        "tokens": np.concatenate([c.tokens for c in curves]),
    }
    loss = np.concatenate([c.loss for c in curves])
    return columns, loss, np.concatenate([np.full(len(c.tokens), place) for place, c in enumerate(curves)])
