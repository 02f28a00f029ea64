"""What a person should know before trusting a plan, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from pydantic import TypeAdapter, ValidationError

from outgrow.planning.curves import law_parameters
from outgrow.planning.laws import Range
from outgrow.planning.sizes import KINDS
from outgrow.planning.worked import WorkedPlan
from outgrow.run.schedule import Schedule
from outgrow.text.numbers import amount

OVER_TRAINED = 20.0
"""Tokens per parameter beyond which a base is over-trained for growing (arXiv 2203.15556's optimum; arXiv 2510.06548)."""
SUPPORTED_FACTOR = 4.0
"""Growth factor that published evidence supports in one hop (arXiv 2405.15319: 2 to 4)."""

UNSETTLED = 0.1
"""Range of a pilot's lost tokens over its last half, as a share of its tokens after the growth, beyond which we warn."""


def plan_cautions(worked: WorkedPlan) -> tuple[str, ...]:
    """Every warning about the schedule to take."""
    return tuple(
        text
        for rule in (
            _counting,
            _alone,
            _unused,
            _order,
            _batches,
            _uncertain,
            _operators,
            _measured,
            _factors,
            _over_trained,
            _beyond,
            _decaying,
            _edge,
        )
        for text in rule(worked)
    ) + tuple(f"left out, the operators refuse it: {text}" for text in worked.refused)


def _counting(worked: WorkedPlan) -> Iterator[str]:
    if worked.candidates[0].fields is None:
        yield (
            "Candidates are numbers of parameters alone: a token is taken to cost 6 FLOPs per parameter, "
            "without attention and head."
        )


def _alone(worked: WorkedPlan) -> Iterator[str]:
    none = bool((worked.problem.operator_of < 0).all())
    if worked.plan.stages > 1 and len(worked.candidates) > 1 and none:
        yield (
            "No candidate can be grown into another, so one stage is all that is planned: every two are further apart than "
            "operators.*.largest_factor, or one is larger here and smaller there."
        )


def _unused(worked: WorkedPlan) -> Iterator[str]:
    """Runs of a size that no candidate has: they were fitted for nothing."""
    if worked.law.own is None:
        return
    used = [id(size.curve) for size in worked.problem.sizes]
    sizes = sorted({curve.parameters for curve in worked.law.curves})
    rest = [size for size, fit in zip(sizes, worked.law.fitted, strict=True) if id(fit.law) not in used]
    if rest:
        yield (
            f"Curves of {', '.join(f'{size:.4g}' for size in rest)} parameters belong to no candidate and are not used: "
            "each candidate takes the curve nearest to it in parameters."
        )


def _order(worked: WorkedPlan) -> Iterator[str]:
    """Curves of their own in the wrong order, at the last tokens that both have: other data, another unit, or runs mixed up."""
    if worked.law.own is None:
        return
    for small, large in pairwise(sorted(worked.problem.sizes, key=lambda size: size.parameters)):
        tokens = min(worked.law.seen(one.parameters)["tokens"].high for one in (small, large))
        low, high = float(small.curve.loss(tokens)), float(large.curve.loss(tokens))
        if high > low:
            yield (
                f"After {tokens:.3g} tokens {large.name} has a loss of {high:.3f} and the smaller {small.name} one of {low:.3f}: "
                "look whether both curves have the same data, tokenizer and unit."
            )


def _batches(worked: WorkedPlan) -> Iterator[str]:
    """What a plan over the batch assumes."""
    if worked.law.batch is None:
        return
    batches = " → ".join(amount(one) for one in worked.batches(worked.path))
    yield (
        f"Batches of {batches} tokens are taken from {worked.law.batch.words()}. Measure the critical batch of your "
        "data and give it as law.critical_batch."
    )
    if len(worked.path.sizes) > 1:
        yield (
            f"Of the saving, {worked.batch_saving():.1%} is the batches' own: one size from scratch saves that where it "
            "changes its batch at the same losses."
        )
    yield (
        "The law says nothing of the length of sequences, which stays as it is, nor of the learning rate: tune it for "
        "each batch (stages[].optimizer.learning_rate)."
    )


def _uncertain(worked: WorkedPlan) -> Iterator[str]:
    if not worked.law.draws:
        yield (
            "The law was not fitted to your curves, so the saving has no interval, and sizes, data and learning "
            "rates of your own may follow another one."
        )
        return
    saving = worked.savings[worked.chosen]
    if saving is not None and len(worked.path.sizes) > 1 and saving.low <= 0:
        yield f"The saving's interval includes 0 ({saving.low:.1%} to {saving.high:.1%}): more curves would decide it."
    for fitted in worked.law.fitted:
        if fitted.quality.starts_agreeing < 0.05:
            yield "Few starts of the fit agree on the best law: the curves hardly determine it."


def _operators(worked: WorkedPlan) -> Iterator[str]:
    used = _used(worked)
    for kind, cost in zip(KINDS, worked.problem.operators, strict=True):
        perfect = not (cost.loss_gap or cost.lost_tokens or cost.flops)
        if kind in used and kind not in worked.measured and perfect:
            yield (
                f"The growth in {kind} is taken to be perfect (no loss gap, no lost tokens): measure it on a pilot and "
                f"put it into operators.{kind}."
            )
        if kind in used and kind not in worked.measured and cost.loss_gap < 0:
            yield (
                f"The growth in {kind} is said to lower the loss by {-cost.loss_gap:.3g} for nothing: an operator that keeps "
                "the function has a loss gap of 0, and others raise the loss."
            )


def _used(worked: WorkedPlan) -> dict[str, list[tuple[int, int]]]:
    """Kinds of growth of the schedule to take, with their places of sizes."""
    used: dict[str, list[tuple[int, int]]] = {}
    for i, j in zip(worked.path.sizes, worked.path.sizes[1:], strict=False):
        used.setdefault(KINDS[int(worked.problem.operator_of[i, j])], []).append((i, j))
    return used


def _measured(worked: WorkedPlan) -> Iterator[str]:
    """How far a measured cost can be trusted for the growths that it is used for."""
    for kind, pairs in _used(worked).items():
        cost = worked.measured.get(kind)
        if cost is None:
            continue
        if cost.lost_tokens < 0:
            yield (
                f"Models grown in {kind} were faster than their own size from scratch, by {-cost.lost_tokens:.3g} tokens: "
                "the plan takes 0 lost tokens, as a gain seen after a whole pilot is not there at every growth and in "
                "stages of any length."
            )
        low, high = cost.last_half
        trained = min(float(one.tokens[-1]) for one in cost.pilots)
        if high - low > UNSETTLED * trained:
            yield (
                f"The lost tokens of the growth in {kind} had not settled: {low:.3g} to {high:.3g} over the last half of "
                f"a pilot of {trained:.3g} tokens after the growth. A longer pilot, or more validation sequences, would decide it."
            )
        count = worked.plan.law.count
        large = law_parameters(cost.pilots[0].config, count)
        far = [
            worked.candidates[j] for _, j in pairs if not 0.5 < worked.candidates[j].parameters / large < 2
        ]
        if far:
            yield (
                f"The cost of the growth in {kind} was measured on a model of {large:.3g} parameters and is used for "
                f"{', '.join(f'{one.name} ({one.parameters:.3g})' for one in far)}: lost tokens are taken to be the same."
            )


def _factors(worked: WorkedPlan) -> Iterator[str]:
    for i, j in zip(worked.path.sizes, worked.path.sizes[1:], strict=False):
        small, large = worked.candidates[i], worked.candidates[j]
        factor = large.parameters / small.parameters
        if factor > SUPPORTED_FACTOR * 1.01:
            yield (
                f"{small.name} → {large.name} grows {factor:.3g} times at once; published evidence supports 2 to "
                f"{SUPPORTED_FACTOR:.0f} in one hop (arXiv 2405.15319). Set operators.*.largest_factor to plan smaller ones."
            )


def _over_trained(worked: WorkedPlan) -> Iterator[str]:
    seen = 0.0
    for place, tokens in list(zip(worked.path.sizes, worked.path.tokens, strict=True))[:-1]:
        seen += tokens
        one = worked.candidates[place]
        if seen > OVER_TRAINED * one.parameters:
            yield (
                f"{one.name} is grown after {seen / one.parameters:.0f} tokens per parameter: a base beyond "
                f"{OVER_TRAINED:.0f} gains less from a second stage (law of saturation, arXiv 2510.06548)."
            )


def _beyond(worked: WorkedPlan) -> Iterator[str]:
    """The law asked about what it never saw: one line per column, and per size where each has a curve of its own."""
    stages = list(zip(worked.path.sizes, worked.path.losses, strict=True))
    asked = {
        "parameters": [(place, worked.candidates[place].parameters) for place, _ in stages],
        "tokens": [
            (
                place,
                float(worked.problem.sizes[place].curve.tokens(loss) * worked.problem.batch(np.array(loss))),
            )
            for place, loss in stages
        ],
    }
    for name, values in asked.items():
        beyond: dict[Range, list[str]] = {}
        for place, value in values:
            one = worked.candidates[place]
            seen = worked.law.seen(one.parameters).get(name)
            if seen is not None and seen.outside(value):
                beyond.setdefault(seen, []).append(f"{one.name} at {value:.3g}")
        for seen, listed in beyond.items():
            yield f"Extrapolation in {name}: {', '.join(listed)}; the law saw {seen.low:.3g} to {seen.high:.3g}."


def _decaying(worked: WorkedPlan) -> Iterator[str]:
    run = worked.plan.run
    if run is None:
        return
    try:
        schedule = TypeAdapter(Schedule).validate_python(run.get("schedule", {"kind": "wsd"}))
    except ValidationError:
        return  # run.yaml's own check names the mistake where the run is written
    total, seen = worked.path.total_tokens, 0.0
    if schedule.warmup_tokens >= total:
        yield (
            f"The warm-up of {amount(schedule.warmup_tokens)} tokens outlasts the plan's {amount(total)}: the learning rate "
            "never reaches its peak (run.schedule.warmup_tokens)."
        )
    for place, tokens in list(zip(worked.path.sizes, worked.path.tokens, strict=True))[:-1]:
        seen += tokens
        factor = schedule.factor(seen, total)
        if seen > schedule.warmup_tokens and factor < 0.99:
            yield (
                f"At the growth after {worked.candidates[place].name} the learning rate has already decayed to "
                f"{factor:.0%} of its peak: grow in the stable part (schedule wsd with a smaller decay_share)."
            )


def _edge(worked: WorkedPlan) -> Iterator[str]:
    if worked.plan.target.size is None and worked.path.sizes[-1] == len(worked.candidates) - 1:
        yield "The largest candidate is the best final size: a larger one might be better still."
    if len(worked.path.sizes) > 1 and worked.path.sizes[0] == 0 and len(worked.candidates) > 2:
        yield "The smallest candidate is the best first size: a smaller one might be better still."
