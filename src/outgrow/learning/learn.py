"""Learning an operator: which form, where its fit begins, and the fitted operator that comes out.

learn(state, to, batches) = fit(start(method)(small, large)) -> FittedOperator, saved and applied like any growth
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from outgrow.engine.progress import Progress
from outgrow.engine.step import Device
from outgrow.errors import GrowthError, near
from outgrow.growth.target import target
from outgrow.learning.fit import Fit, fit
from outgrow.methods.build import build
from outgrow.methods.learned.fitted import FittedOperator, describe_source
from outgrow.methods.learned.form import OperatorForm
from outgrow.methods.learned.ligo import Ligo, initial
from outgrow.methods.learned.ligo_start import exact_start
from outgrow.methods.learned.mango import Mango, ring_start
from outgrow.models.architecture import resolve
from outgrow.models.expressions import got
from outgrow.models.forward import ModelInputs
from outgrow.models.model import Model
from outgrow.run.learn_options import LearnOptions
from outgrow.state.operator_file import learned_values
from outgrow.state.training_state import TrainingState

Begin = Callable[
    [Model, Mapping[str, int], LearnOptions], tuple[OperatorForm, dict[str, Tensor], dict[str, Any]]
]
"""(small, to, options) -> the form, its first numbers, and the form's own options as JSON."""


def begin_ligo(
    small: Model, to: Mapping[str, int], options: LearnOptions
) -> tuple[OperatorForm, dict[str, Tensor], dict[str, Any]]:
    """LiGO at the start that is asked for."""
    if options.start == "exact":
        base = build(small, to, width=options.width, depth=options.depth)
        form, values = exact_start(base, seed=options.seed)
        return form, values, {"tie": form.tie, "offsets": list(form.offsets)}
    width, depth = published_start(options.start)
    tied = Ligo(small, target(small, to), "published")
    return (
        tied,
        initial(tied, width=width, depth=depth, seed=options.seed),
        {"tie": tied.tie, "offsets": []},
    )


def published_start(start: str) -> tuple[str, str]:
    """Width and depth of a published start.

    >>> published_start("published"), published_start("selection,interleave_noisy")
    (('random', 'stack_noisy'), ('selection', 'interleave_noisy'))
    """
    words = ("random,stack_noisy" if start == "published" else start).split(",")
    if len(words) != 2:
        raise GrowthError(
            f"unknown start '{start}' of a learned operator",
            expected="exact, published, or WIDTH,DEPTH as random,stack_noisy",
        )
    return words[0], words[1]


def begin_mango(
    small: Model, to: Mapping[str, int], options: LearnOptions
) -> tuple[OperatorForm, dict[str, Tensor], dict[str, Any]]:
    """Mango at stacked layers and selected units plus noise, as published; it can begin at no exact growth."""
    if options.start == "exact":
        raise GrowthError(
            "mango shares one map between all matrices, so it cannot begin at a growth that keeps the function",
            fix="use --start published (selection and stack), or --method ligo",
        )
    width, depth = ("selection", "stack") if options.start == "published" else published_start(options.start)
    form = Mango(small, target(small, to), options.rank)
    return form, ring_start(form, width=width, depth=depth, seed=options.seed), {"rank": options.rank}


METHODS: Mapping[str, Begin] = {"ligo": begin_ligo, "mango": begin_mango}
"""Learned operators whose numbers are trained on the task's loss, by name."""


def begin(
    small: Model, to: Mapping[str, int], options: LearnOptions
) -> tuple[OperatorForm, dict[str, Tensor], dict[str, Any]]:
    """The form of a method and its first numbers: everything that can be refused, before any tensor is read."""
    if options.method not in METHODS:
        raise GrowthError(f"unknown learned operator '{options.method}' ({near(options.method, METHODS)})")
    if options.unused:
        raise GrowthError(
            f"{options.method} from start {options.start} has no use for {', '.join(options.unused)}",
            fix="leave out what it does not use",
        )
    return METHODS[options.method](small, to, options)


def fit_operator(
    state: TrainingState,
    to: Mapping[str, int],
    batches: Callable[[int], ModelInputs],
    evaluation: Sequence[ModelInputs],
    options: LearnOptions,
    *,
    data: Mapping[str, Any] | None = None,
    device: Device | None = None,
    progress: Progress | None = None,
) -> tuple[FittedOperator, Fit]:
    """Fit an operator that grows `state` to the sizes of `to`, on `batches(step)`; nothing is grown yet.

    Batches are what the model's own forward takes, labels included. `data` is kept in the operator's record. Raises
    GrowthError for sizes and starts that do not fit, before any tensor is read.
    """
    small = resolve(state.config)
    form, start, own = begin(small, to, options)
    weights = {name: value.float() for name, value in learned_values(state.source).items()}
    found = fit(
        form, start, weights, state.config, batches, evaluation, options, device=device, progress=progress
    )
    record = {
        "start": options.start,
        **({"width": options.width, "depth": options.depth} if options.start == "exact" else {}),
        "fit": options.record,
        "loss_small": found.loss_small,
        "loss_start": found.loss_start,
        "loss_end": found.loss_end,
        "flops": found.flops,
        "seconds": found.seconds,
        "data": dict(data or {}),
        "losses": list(found.losses),
    }
    return operator_of(options.method, form, own, to, found.values, record), found


def operator_of(
    method: str,
    form: OperatorForm,
    own: Mapping[str, Any],
    to: Mapping[str, int],
    values: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> FittedOperator:
    """The numbers of a form as an operator for the source that it was made for."""
    small, large = form.small, form.large
    eps = {
        name: value
        for name in {str(spec.eps) for spec in small.axes.values() if spec.eps is not None}
        if (value := got(large.config, name)) != got(small.config, name)
    }
    sizes = {small.spec.aliases.get(name, name): value for name, value in to.items()}
    return FittedOperator(method, own, sizes, eps, describe_source(small), values, record)
