"""What a schedule is chosen from: sizes with their curves, the operators between them, and what an operator costs.

A grown model joins the curve of its own size at the loss where it starts (training-dynamics-preserving, arXiv 2203.06211):

    tokens of a stage = lost + curve(end loss) - curve(start loss + gap)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outgrow.errors import ConfigError
from outgrow.planning.laws import Array, PowerCurve
from outgrow.planning.laws.power import array

_FEWEST_UNITS = 1e-9
"""Where a growth loses more tokens than its stage has, the stage stands at the very beginning of its curve."""
_STEPS = (1e-6, 1e18)
"""Of a stage: between these the bisection looks."""
_HALVINGS = 64
"""log(1e24) / 2^64 is a relative 3e-18."""


@dataclass(frozen=True)
class Size:
    """A candidate: its parameters as the law counts them, its cost, and its learning curve from scratch."""

    name: str
    parameters: float
    flops_per_token: float
    curve: PowerCurve


@dataclass(frozen=True)
class OperatorCost:
    """A growth operator by its measured cost; all zero is perfect: the loss is kept, and so are the dynamics."""

    name: str
    loss_gap: float = 0.0
    """Rise of the loss at the growth, in nats per token; negative where growth helps at once."""
    lost_tokens: float = 0.0
    """Tokens that the grown model trains beyond those its own curve needs from where it starts."""
    flops: float = 0.0
    """Cost of the growth itself, as of learning an operator."""


LOSS_PRESERVING = OperatorCost("loss-preserving")


@dataclass(frozen=True)
class Problem:
    """Sizes in order of cost, and for each pair the operator that leads from the first to the second.

    `operator_of[i, j]` is a place in `operators`, or -1 where size j cannot be grown from size i. `last` are the places of the
    sizes that may be the final model. With `batch_tokens`, curves count steps and a stage's batch is the one for its end loss
    (Kaplan's critical batch); without, curves count tokens.
    """

    sizes: tuple[Size, ...]
    operators: tuple[OperatorCost, ...]
    operator_of: NDArray[np.int64]
    last: tuple[int, ...]
    batch_tokens: Callable[[Array], Array] | None = None

    def __post_init__(self) -> None:
        count = len(self.sizes)
        if not count or not self.last:
            raise ConfigError("no candidate sizes to plan with")
        costs = [size.flops_per_token for size in self.sizes]
        assert self.operator_of.shape == (count, count)
        assert costs == sorted(costs)
        assert (self.operator_of[np.tril_indices(count)] < 0).all(), "growth leads to larger sizes only"

    @property
    def flops_per_unit(self) -> Array:
        """FLOPs per token of every size."""
        return np.array([size.flops_per_token for size in self.sizes])

    def batch(self, loss: Array) -> Array:
        """Tokens per unit of the curves, for a stage that ends at this loss."""
        return np.ones_like(loss) if self.batch_tokens is None else self.batch_tokens(loss)

    def end_loss(self, size: int, start: ArrayLike, tokens: ArrayLike) -> Array:
        """Loss after so many tokens of a size that begins at unit `start` of its curve; 0 is from scratch.

        With a batch of its own, tokens = batch(loss) * (unit(loss) - start): the end decides the batch, found by bisection.
        """
        curve = self.sizes[size].curve
        begin, trained = np.broadcast_arrays(array(start), array(tokens))
        if self.batch_tokens is None:
            return curve.loss(np.maximum(begin + trained, _FEWEST_UNITS))
        low, high = (np.full(trained.shape, np.log(bound)) for bound in _STEPS)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            steps = np.exp(middle)
            over = self.batch_tokens(curve.loss(begin + steps)) * steps > trained
            low, high = np.where(over, low, middle), np.where(over, middle, high)
        return curve.loss(begin + np.exp(low))

    def units(self, loss: Array) -> Array:
        """[size, loss]: where each size's curve has a loss; infinity where it never has."""
        return np.stack([size.curve.tokens(loss) for size in self.sizes])


def any_larger(count: int) -> NDArray[np.int64]:
    """The table of operators when the first one leads from every size to every larger one.

    >>> any_larger(3).tolist()
    [[-1, 0, 0], [-1, -1, 0], [-1, -1, -1]]
    """
    table = np.full((count, count), -1)
    table[np.triu_indices(count, 1)] = 0
    return table


def by_ratio(sizes: tuple[Size, ...], ratio: float) -> NDArray[np.int64]:
    """The first operator leads from a size to that one which has `ratio` times its parameters, where there is one."""
    parameters = np.log([size.parameters for size in sizes])
    near = np.abs(parameters[None] - parameters[:, None] - np.log(ratio)) < 1e-6
    return np.where(near, 0, -1)
