"""A growth by an operator that the run itself fits, planned before any weight exists.

    FLOPs of the fit = steps · (a training step of the target + 3 · making its weights)

Making them is counted on the meta device; a training step as everywhere in a run (`flops.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from outgrow.api import apply, plan_fitted
from outgrow.architectures import resolve
from outgrow.flops import training_flops
from outgrow.operators.learned import Form
from outgrow.state import TrainingState
from outgrow.train.config import GrowConfig, RunConfig
from outgrow.train.fit import FitOptions
from outgrow.train.grown_model import making_flops
from outgrow.train.learn import LearnOptions, begin, operator_of, usual_rate


def learn_options(growth: GrowConfig) -> LearnOptions:
    """What `learn` takes; the growth's seed draws the start and dropout."""
    wanted = growth.learn
    assert wanted is not None, "the growth is learned"
    fit = FitOptions(
        steps=wanted.steps,
        learning_rate=wanted.learning_rate or usual_rate(wanted.start),
        warmup=wanted.warmup_steps,
        dropout=wanted.dropout,
        seed=growth.seed,
    )
    return LearnOptions(wanted.method, wanted.start, wanted.width, wanted.depth, wanted.rank, fit)


def begun_state(state: TrainingState, growth: GrowConfig) -> TrainingState:
    """The state grown by the operator as its fit begins: what the fitted one makes has the same sizes and maps."""
    form, values, own = _begin(state.config, growth)
    assert growth.learn is not None, "the growth is learned"
    unfitted = operator_of(growth.learn.method, form, own, growth.to, values, {"fit": {"steps": 0}})
    return apply(plan_fitted(state.config, unfitted, moments=growth.moments), state)


def learning_flops(config: Mapping[str, Any], growth: GrowConfig, run: RunConfig) -> float:
    """FLOPs of the fit on this run's batches; `config` is the source's. Evaluations are not counted, as in all of a run."""
    if growth.learn is None:
        return 0.0
    form, values, _ = _begin(config, growth)
    step = items(run) * run.tokens_per_step // run.batch.sequences
    plain = step * training_flops(form.large.config, run.data.sequence_length)[1]
    return float(growth.learn.steps * (plain + 3 * making_flops(form, values)))


def items(run: RunConfig) -> int:
    """Sequences, or images, of one step of a fit: as many as the run holds in memory at once."""
    return run.batch.micro_batch or run.batch.sequences


def _begin(config: Mapping[str, Any], growth: GrowConfig) -> tuple[Form, dict[str, Tensor], dict[str, Any]]:
    return begin(resolve(config), growth.to, learn_options(growth))
