"""Operators whose cost a plan file has measured: pilot runs found, paired with runs from scratch, checked and read.

operators.<kind>.measured: {grown: files, scratch: files}  ->  MeasuredOperator        one pair per seed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from outgrow.errors import ConfigError, OutgrowError
from outgrow.files.metrics_file import read_rows
from outgrow.files.yaml_file import read_yaml
from outgrow.models.architecture import resolve
from outgrow.planning.config import FitLaw, MeasuredConfig, PlanConfig
from outgrow.planning.curves import CurveFile, law_parameters, read_curves
from outgrow.planning.curves.falling import FallingCurve, falling, falling_law
from outgrow.planning.curves.grown import GrownCurve, read_grown_curve
from outgrow.planning.curves.metrics import number_in
from outgrow.planning.plan_law import SizeLaw, matching_files
from outgrow.planning.sizes import KINDS, kind_of_growth
from outgrow.planning.stages.measured import MeasuredOperator, PilotCost, pilot_cost

_ALIKE = (
    "data.source",
    "data.images",
    "data.validation_images",
    "data.validation_source",
    "data.validation_share",
    "data.sequence_length",
    "evaluation.sequences",
    "batch.sequences",
    "optimizer.name",
)
"""Keys of run.yaml in which losses or tokens of two runs must agree to be compared."""


def measured_operators(plan: PlanConfig, law: SizeLaw) -> dict[str, MeasuredOperator]:
    """The measured operators of a plan by kind of growth; every mistake names the kind and the file."""
    found = {}
    for kind in KINDS:
        config: MeasuredConfig | None = getattr(plan.operators, kind).measured
        if config is not None:
            try:
                found[kind] = _measured(plan, law, kind, config)
            except OutgrowError as error:
                raise type(error)(f"operators.{kind}.measured: {error}") from None
    return found


def _measured(plan: PlanConfig, law: SizeLaw, kind: str, config: MeasuredConfig) -> MeasuredOperator:
    grown = [read_grown_curve(_log(path)) for path in matching_files(config.grown)]
    for one in grown:
        _check_kind(plan, kind, one)
        _check_sizes(one, grown[0].source, grown[0].config)
    if config.scratch is None:
        own = _own_of_law(plan, law, grown[0].config)
        return MeasuredOperator(tuple(pilot_cost(one, own) for one in grown))
    scratch = [_log(path) for path in matching_files(config.scratch)]
    if len(scratch) not in (1, len(grown)):
        raise ConfigError(
            "grown and scratch do not pair",
            got=f"{len(grown)} grown and {len(scratch)} scratch runs",
            expected="as many, in the order of their names, or one scratch run for all",
        )
    pairs = zip(grown, scratch * (len(grown) // len(scratch)), strict=True)
    return MeasuredOperator(tuple(_pilot(one, path) for one, path in pairs))


def _pilot(grown: GrownCurve, scratch: Path) -> PilotCost:
    (curve,) = read_curves(CurveFile(scratch))
    assert curve.config is not None, "the log of a run has its model's config"
    _check_sizes(grown, curve.source, curve.config)
    cost = pilot_cost(grown, falling(curve))
    notes = tuple(f"{curve.source}: {note}" for note in curve.notes)
    return replace(cost, notes=(*cost.notes, *notes, *_differences(grown, scratch)))


def _log(path: Path) -> Path:
    log = path / "metrics.jsonl" if path.is_dir() else path
    if log.suffix != ".jsonl" or not log.is_file():
        raise ConfigError(f"{path}: not the log of a run", expected="a metrics.jsonl, or its run folder")
    return log


def _own_of_law(plan: PlanConfig, law: SizeLaw, config: Mapping[str, Any]) -> FallingCurve:
    """The grown size's curve by the plan's own fit, between the first and last tokens of the points of that size."""
    if not law.fitted or (isinstance(plan.law, FitLaw) and plan.law.points != "stable"):
        raise ConfigError(
            "scratch is missing: the curve of the grown size from scratch",
            fix="name the metrics.jsonl of a run from scratch, or fit the law to your curves (points: stable)",
        )
    parameters = law_parameters(config, plan.law.count)
    tokens = [curve.tokens for curve in law.curves if abs(curve.parameters / parameters - 1) < 0.02]
    if not tokens:
        raise ConfigError(
            "scratch is missing, and the law was not fitted to a curve of the grown size",
            got=", ".join(f"{curve.parameters:.4g}" for curve in law.curves),
            expected=f"{parameters:.4g} parameters",
            fix="name the metrics.jsonl of a run from scratch, or add one to law.curves",
        )
    first, last = min(float(one[0]) for one in tokens), max(float(one[-1]) for one in tokens)
    source = f"the fitted curve of {parameters:.4g} parameters"
    return falling_law(source, law.best(parameters), first, last)


def _check_sizes(grown: GrownCurve, other: str, config: Mapping[str, Any]) -> None:
    """Both models have the same parameters, axis by axis; what a growth compensates (as a norm's eps) may differ."""
    one, two = resolve(grown.config), resolve(config)
    mine = {**one.sizes, "layers": one.layers, "model_type": one.spec.model_type}
    others = {**two.sizes, "layers": two.layers, "model_type": two.spec.model_type}
    names = sorted(name for name in mine.keys() | others.keys() if mine.get(name) != others.get(name))
    if names or one.num_parameters != two.num_parameters:
        listed = ", ".join(f"{name} {others.get(name)} (grown: {mine.get(name)})" for name in names)
        raise ConfigError(
            f"{other}: not the size to which {grown.source} grew",
            got=listed or f"{two.num_parameters} parameters (grown: {one.num_parameters})",
            fix="give runs that end in the same model",
        )


def _check_kind(plan: PlanConfig, kind: str, grown: GrownCurve) -> None:
    """The pilot grew what its key says; for candidates that are numbers alone, `both` serves every growth."""
    if grown.small is None or all(one.sizes is None for one in plan.candidates):
        return
    did = kind_of_growth(grown.small, grown.config)
    if did != kind:
        raise ConfigError(
            f"{grown.source}: this run grew in {did}",
            expected=kind,
            fix=f"put it under operators.{did}.measured",
        )


def _differences(grown: GrownCurve, scratch: Path) -> tuple[str, ...]:
    """The note that the two runs saw other data or were trained otherwise, where their run files say so."""
    log = Path(grown.source)
    one, two = _setup(log), _setup(scratch)
    if one is None or two is None:
        return ()
    found = {name: (_at(one, name), _at(two, name)) for name in _ALIKE}
    found["the learning rate's peak"] = (_peak(log), _peak(scratch))
    found["the batch and length of stages"] = (_own_reading(one), _own_reading(two))
    listed = ", ".join(f"{name} {mine} and {other}" for name, (mine, other) in found.items() if mine != other)
    return (f"{scratch} differs in more than the growth: {listed}",) if listed else ()


def _peak(log: Path) -> float:
    """The learning rate's peak in the run's last stage, to six digits: a rule of reentry may have rounded it."""
    rows, _ = read_rows(log)
    return float(f"{[number_in(log, *one, 'peak') for one in rows if one[1].get('kind') == 'stage'][-1]:.6g}")


def _setup(log: Path) -> Mapping[str, Any] | None:
    """The run file beside a log, where there is one."""
    path = log.parent / "run.yaml"
    return read_yaml(path) if path.is_file() else None


def _own_reading(setup: Mapping[str, Any]) -> str:
    """Which batches and lengths of their own the stages of a run file have, each once."""
    stages = [dict(stage) for stage in setup.get("stages", ())]
    own = [{key: stage[key] for key in ("data", "batch") if stage.get(key)} for stage in stages]
    return ", ".join(sorted({str(one) for one in own if one})) or "the run's"


def _at(setup: Mapping[str, Any], name: str) -> Any:
    section, key = name.split(".")
    found = setup.get(section)
    return found.get(key) if isinstance(found, Mapping) else None
