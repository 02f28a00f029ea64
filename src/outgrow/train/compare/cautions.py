"""What makes a study's numbers worth less than they look, in plain words.

A baseline below about 20 tokens per parameter without embeddings (arXiv 2203.15556) is not trained to its compute-optimal
length: there any small model is ahead, and a saving means nothing.
"""

from __future__ import annotations

from outgrow.train.compare.result import StudyResult

TOKENS_PER_PARAMETER = 20


def cautions(result: StudyResult) -> tuple[str, ...]:
    """One sentence for each; none where there is nothing to warn of."""
    return (*_short_baseline(result), *_edges(result), *_outside(result), *_few_seeds(result))


def _short_baseline(result: StudyResult) -> list[str]:
    study = result.study
    if "images" in study.common.get("data", {}):
        return []  # the rule is about tokens of text
    point = result.of(study.baseline)[study.seeds[0], study.arm_budgets(study.baseline)[-1]]
    ratio = point.tokens / point.parameters
    if ratio >= TOKENS_PER_PARAMETER * 0.95:
        return []
    return [
        f"the baseline sees {ratio:.1f} tokens per parameter without embeddings, less than about {TOKENS_PER_PARAMETER}: "
        "so early a small model is ahead anyway, and these savings do not carry over to a full training"
    ]


def _edges(result: StudyResult) -> list[str]:
    rates = sorted(result.study.tuning.rates)
    if len(rates) < 3:
        return [f"{len(rates)} learning rate(s) in the sweep: no arm can have its best inside the grid"]
    return [
        f"the best learning rate of '{arm}' is the {'smallest' if rate == rates[0] else 'largest'} of the sweep ({rate:g}): "
        "the true best may lie beyond"
        for arm, rate in result.rates.items()
        if rate in (rates[0], rates[-1])
    ]


def _outside(result: StudyResult) -> list[str]:
    return [
        f"'{arm}' has no saving at any budget: its losses lie outside the baseline's frontier"
        for arm, found in result.savings().items()
        if not result.study.arms[arm].is_scratch and all(one.saving is None for one in found)
    ]


def _few_seeds(result: StudyResult) -> list[str]:
    count = len(result.study.seeds)
    return [f"{count} seed(s): the intervals are wide or absent, three are the least"] if count < 3 else []
