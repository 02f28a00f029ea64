"""A growth by an operator that the run itself fits, planned before any weight exists.

    FLOPs of the fit = steps · (a training step of the target + 3 · making its weights)

Making them is counted on the meta device; a training step as everywhere in a run (`cost/flops.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from outgrow.cost.flops import training_flops
from outgrow.errors import GrowthError
from outgrow.files.reading import expanded
from outgrow.learning.grown_model import making_flops
from outgrow.learning.learn import begin, operator_of
from outgrow.learning.lesa import lesa_flops, lesa_form, lesa_operator
from outgrow.models.architecture import resolve
from outgrow.run.config import RunConfig
from outgrow.run.grow_config import GrowConfig
from outgrow.run.learn_config import LesaConfig
from outgrow.run.learn_options import LearnOptions, LesaOptions
from outgrow.state.asked import plan_fitted
from outgrow.state.growing import apply
from outgrow.state.operator_file import load_operator
from outgrow.state.training_state import TrainingState


def learn_options(growth: GrowConfig) -> LearnOptions | LesaOptions:
    """What `fit_operator` or `learn_lesa` takes; the growth's seed draws the start and dropout, or noise."""
    wanted = growth.learn
    assert wanted is not None, "the growth is learned"
    if isinstance(wanted, LesaConfig):
        return wanted.options(growth.noise, growth.seed)
    return wanted.options(growth.seed)


def check_operator(growth: GrowConfig, stage: int) -> None:
    """Raise where a fitted operator holds layers of one checkpoint, and the stage's source is yet to be trained."""
    if growth.operator is not None and stage > 0:
        operator = load_operator(expanded(growth.operator))
        if "sample" in operator.source:
            raise GrowthError(
                f"a {operator.method} operator holds layers predicted from one checkpoint, not from what this run will train",
                fix="use it in the first stage, after `from` that checkpoint",
            )


def begun_state(state: TrainingState, growth: GrowConfig) -> TrainingState:
    """The state grown by the operator as its fit begins: what the fitted one makes has the same sizes and maps."""
    options = learn_options(growth)
    if isinstance(options, LesaOptions):
        lesa = lesa_form(state.config, growth.to, options)
        tensors = {name: torch.empty(shape, device="meta") for name, shape in lesa.shapes().items()}
        unfitted = lesa_operator(lesa, options, growth.to, tensors, {})
    else:
        form, values, own = begin(resolve(state.config), growth.to, options)
        unfitted = operator_of(options.method, form, own, growth.to, values, {"fit": {"steps": 0}})
    return apply(plan_fitted(state.config, unfitted, moments=growth.moments), state)


def learning_flops(config: Mapping[str, Any], growth: GrowConfig, run: RunConfig) -> float:
    """FLOPs of the fit on this run's batches; `config` is the source's. Evaluations are not counted, as in all of a run."""
    if growth.learn is None:
        return 0.0
    options = learn_options(growth)
    if isinstance(options, LesaOptions):
        return float(lesa_flops(lesa_form(config, growth.to, options), options))
    form, values, _ = begin(resolve(config), growth.to, options)
    step = run.batch.at_once * run.tokens_per_step // run.batch.sequences
    plain = step * training_flops(form.large.config, run.data.sequence_length, run.data.mask_share)[1]
    return float(options.steps * (plain + 3 * making_flops(form, values)))
