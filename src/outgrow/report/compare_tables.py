"""The tables of a study: savings, what limits them, sweeps, downstream scores, the estimate; others are in `compare_readings.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean, stdev

from outgrow.comparing.estimate import ArmEstimate
from outgrow.comparing.parts import NoParts, SavingParts
from outgrow.comparing.result import StudyResult, trial_losses
from outgrow.comparing.saving import Saving
from outgrow.errors import printable
from outgrow.report.compare_cells import percent, saved_cell
from outgrow.report.compare_parts import parts_table
from outgrow.report.compare_readings import legend, paired_table, readings_table, stopped_table
from outgrow.report.compare_sizes import sizes_table
from outgrow.text.numbers import amount, duration
from outgrow.text.table import TextTable

SAVINGS = (
    "arm",
    "rate",
    "FLOPs",
    "time",
    "decayed loss",
    "read at",
    "FLOPs saved",
    "time saved",
    "against any size",
)
SAVINGS_NOTE = (
    "Saved: 1 - C / C of the baseline at equal decayed validation loss, the small stages and the growth counted, read off the "
    "baseline's frontier by a monotone cubic, never beyond it; in brackets the 90 % interval over seeds. Read at: tokens per parameter "
    "(without embeddings) of the baseline at that loss; below about 20 savings are larger. Time: tokens times the seconds per token of each "
    "model, measured in turns on one machine, and the growth. Against any size: FLOPs saved against the best model from scratch of "
    "any size in the study; at most so much where a size ends above this loss, and may reach it for less. "
    "The sweep of learning rates is the same for all arms, or goes by the same rule, and is not counted."
)
WORTHS = ("arm", "budget", "small tokens", "share", "worth", "cost", "FLOPs saved")
WORTHS_NOTE = (
    "FLOPs saved = share * (worth - cost). Share: of the baseline's tokens at equal loss, how many the stages before the last have seen. "
    "Worth: for how many tokens of the baseline one of these stands; cost: how many it costs in FLOPs. A growth saves where "
    "the worth is above the cost; worth 1 and cost 0 would save the whole share."
)


def sections(result: StudyResult) -> tuple[TextTable, ...]:
    """All tables of the report that have a row, the savings first."""
    savings = TextTable("Savings at equal loss", SAVINGS, saving_rows(result), SAVINGS_NOTE)
    worths = TextTable("What limits the savings", WORTHS, worth_rows(result), WORTHS_NOTE)
    readings = readings_table(result)
    tables = (
        savings,
        sizes_table(result),
        parts_table(result),
        paired_table(result),
        worths,
        readings,
        legend(readings),
        *_downstream(result),
        stopped_table(result),
        *_sweep(result),
    )
    return tuple(table for table in tables if table.rows)


def study_verdict(result: StudyResult) -> str:
    """What the study says, in a sentence or two: the best arm at its largest budget, and against any size."""
    flops = result.savings("flops")
    grown = [arm for arm, config in result.study.arms.items() if not config.is_scratch]
    ends = {arm: flops[arm][-1] for arm in grown if flops[arm][-1].saving is not None}
    outside = _outside({arm: flops[arm][-1] for arm in grown if arm not in ends})
    if not ends:
        return (
            "No arm that grows ends on the baseline's frontier, so nothing can be said of a saving." + outside
        )
    best = max(ends, key=lambda arm: ends[arm].saving or 0.0)
    one, ratio = ends[best], result.tokens_per_parameter(ends[best].loss)
    among = f", the best of {len(ends)} arms," if len(ends) > 1 else ""
    where = "" if ratio is None else f", read at {ratio:.{0 if ratio >= 10 else 1}f} tokens per parameter"
    said = f"{best}{among} {_does(one.saving)} of the FLOPs{_interval(one)} at equal decayed loss{where}."
    said += _parts(result.parts().get(best, ()))
    return said + _against_any_size(result, one) + outside


def _against_any_size(result: StudyResult, one: Saving) -> str:
    any_size, _ = result.any_size(one.loss)
    if any_size is None:
        return ""
    said = f" Against the best size from scratch it {_does(1 - one.compute / any_size)}"
    unread = " and ".join(result.unread_sizes(one.loss))
    return f"{said}, or less: what {unread} would cost at this loss is not known." if unread else said + "."


def _outside(ends: Mapping[str, Saving]) -> str:
    """Arms that the best is not chosen from: their loss has no place on the baseline's frontier, and on which side it lies."""
    sides: dict[str, list[str]] = {}
    for arm, one in ends.items():
        sides.setdefault(one.side, []).append(arm)
    return "".join(
        f" Not read, because {side} of the baseline: {', '.join(arms)}." for side, arms in sides.items()
    )


def _parts(parts: Sequence[SavingParts | NoParts]) -> str:
    """Whose doing a saving is, where the arm has a schedule and the schedule a twin without growth."""
    match parts[-1:]:
        case [SavingParts() as last]:
            return (
                f" Of that, the schedule saves {percent(last.schedule.mean)} without any growth, and the growth"
                f" {percent(last.growth.mean)}."
            )
        case [NoParts(beaten=True)]:
            return " The same schedule from scratch does better for less, so the growth saves nothing."
        case [NoParts()]:
            return (
                " How much of that is the schedule's is not known: its twin's budgets do not reach this loss."
            )
    return ""


def _does(saving: float | None) -> str:
    saving = saving or 0.0
    return f"{'saves' if saving > 0 else 'loses'} {percent(abs(saving))}"


def _interval(one: Saving) -> str:
    if one.low is None or one.high is None:
        return " (one seed: no interval)"
    unsure = ", which may be none" if one.low <= 0 < one.high else ""
    return f" (90 %: {100 * one.low:.1f} to {100 * one.high:.1f}{unsure})"


def saving_rows(result: StudyResult) -> list[tuple[str, ...]]:
    """One row per arm and budget."""
    flops, seconds = result.savings("flops"), result.savings("seconds")
    rows: list[tuple[str, ...]] = []
    for arm in result.study.arms:
        for one, timed in zip(flops[arm], seconds[arm], strict=True):
            any_size, side = result.any_size(one.loss)
            most = "at most " if result.unread_sizes(one.loss) else ""
            ratio = result.tokens_per_parameter(one.loss)
            rows.append(
                (
                    arm,
                    f"{result.rates[arm]:g}",
                    amount(one.compute),
                    duration(timed.compute),
                    f"{one.loss:.4f}",
                    "" if ratio is None else f"{ratio:.1f}",
                    *(
                        ("baseline", "baseline")
                        if arm == result.study.baseline
                        else (saved_cell(one), saved_cell(timed))
                    ),
                    side if any_size is None else most + percent(1 - one.compute / any_size),
                )
            )
    return rows


def worth_rows(result: StudyResult) -> list[tuple[str, ...]]:
    """One row per budget of every arm that grows and has a saving."""
    flops, worths = result.savings("flops"), result.worths()
    return [
        (
            arm,
            amount(budget),
            amount(one.tokens),
            percent(one.share),
            f"{one.worth:.2f}" + ("" if one.low is None else f" ({one.low:.2f} to {one.high:.2f})"),
            f"{one.cost:.2f}",
            percent(paid.saving),
        )
        for arm, config in result.study.arms.items()
        if not config.is_scratch
        for budget, one, paid in zip(result.study.arm_budgets(arm), worths[arm], flops[arm], strict=True)
        if one is not None and paid.saving is not None
    ]


def _downstream(result: StudyResult) -> tuple[TextTable, ...]:
    scores = {arm: result.scores(arm) for arm in result.study.arms}
    names = list(dict.fromkeys(name for found in scores.values() for name in found))
    if not names:
        return ()
    rows = [
        (arm, *(_mean(found[name]) if name in found else "" for name in names))
        for arm, found in scores.items()
    ]
    note = (
        "Of the last state of every arm's largest budget: mean over seeds ± standard deviation. Equal loss means an equal model "
        "only where these agree."
    )
    return (TextTable("Downstream", ("arm", *(name.replace("_", " ") for name in names)), rows, note),)


def _sweep(result: StudyResult) -> tuple[TextTable, TextTable]:
    """The study's own rates, and those that the rule of refinement added to each arm's."""
    rates = sorted({trial.rate for trial in result.sweep} & set(result.study.tuning.rates))
    rows, added = [], []
    for arm in result.study.arms:
        losses = trial_losses(result.sweep, arm)
        cells = {
            rate: _loss(loss) + (" *" if rate == result.rates[arm] else "") for rate, loss in losses.items()
        }
        rows.append((arm, amount(result.study.tuning_budget(arm)), *(cells[rate] for rate in rates)))
        added += [(arm, f"{rate:g}", cell) for rate, cell in cells.items() if rate not in rates]
    note = (
        f"Decayed loss, {_seeds(result.study.tuning.seeds)}; * is used for all seeds and budgets of the arm. "
        f"{amount(result.sweep_flops)} FLOPs in {len(result.sweep)} trainings, not counted in any saving."
    )
    columns = ("arm", "budget", *(f"{rate:g}" for rate in rates))
    grid = TextTable("Sweep of learning rates", columns, rows, note)
    refine = result.study.tuning.refine
    rule = "" if refine is None else f"within {refine.to:g} times on both sides, at most {refine.most} an arm"
    said = f"In their order. The rule, the same for every arm: go on until the best is bracketed {rule}."
    return grid, TextTable("Learning rates that the rule added", ("arm", "rate", "decayed loss"), added, said)


def _seeds(seeds: Sequence[int]) -> str:
    """Which seeds a sweep had, in words."""
    named = ", ".join(map(str, seeds))
    return f"mean over seeds {named}" if len(seeds) > 1 else f"seed {named}"


def estimate_section(arms: Sequence[ArmEstimate]) -> TextTable:
    """What a study would take."""
    rows = [
        (
            one.arm,
            str(one.pieces),
            str(one.there),
            amount(one.tokens),
            amount(one.flops),
            duration(one.seconds),
            duration(one.seconds_left),
            f"{one.tokens_per_parameter:.1f}",
        )
        for one in arms
    ]
    seconds = [one.seconds for one in arms if one.seconds is not None]
    left = [one.seconds_left for one in arms if one.seconds_left is not None]
    whole = len(seconds) == len(arms)
    rows.append(
        (
            "whole",
            str(sum(one.pieces for one in arms)),
            str(sum(one.there for one in arms)),
            amount(sum(one.tokens for one in arms)),
            amount(sum(one.flops for one in arms)),
            duration(sum(seconds) if whole else None),
            duration(sum(left) if whole else None),
            "",
        )
    )
    columns = ("arm", "pieces", "there", "tokens", "FLOPs", "time", "time left", "tokens/param")
    note = (
        "Sweeps and all seeds. A piece that arms share counts for the first. Validation, the fits of learned operators (in time) and downstream scores come on top. "
        "Tokens/param: largest budget, without embeddings."
    )
    refining = sum(one.refine_tokens for one in arms)
    if refining:
        note += f" The rule of tuning.refine may add up to {amount(refining)} tokens."
    return TextTable("What the study takes", columns, rows, note)


def fenced(text: str, language: str) -> list[str]:
    """A block of code as lines of Markdown, in a fence that is not in it."""
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", printable(text), fence, ""]


def _loss(loss: float) -> str:
    return f"{loss:.4f}" if isfinite(loss) else "diverged"


def _mean(values: tuple[float, ...]) -> str:
    return f"{fmean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")
