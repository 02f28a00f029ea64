"""The laws of Kaplan et al. (arXiv 2001.08361), and the constants with which Shen et al. (arXiv 2203.06211) plan.

    loss(N, S_min) = (N_c / N)^a_N + (S_c / S_min)^a_S                       eq. 1.6: steps at a large batch
    loss(N, D)     = ((N_c / N)^(a_N / a_D) + D_c / D)^a_D                   eq. 1.5: early-stopped, D tokens in all
    B_crit(loss)   = B* / loss^(1 / a_B)                                     eq. 1.4: in tokens
    S              = S_min * (1 + B_crit / B)                                eq. 5.4: steps at batch B

`N` counts parameters without embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from outgrow.planning.laws.power import Array, Optimum, PowerCurve, array, check_positive, length_for

PF_DAY = 8.64e19
"""FLOPs of a petaflop per second, kept for a day."""


@dataclass(frozen=True)
class CriticalBatch:
    """The batch (tokens) at which time and compute are both twice their least: `scale_tokens / loss^(1 / exponent)`.

    >>> f"{float(KAPLAN_BATCH.tokens(loss=2.69)):.3g}"
    '1.89e+06'
    """

    scale_tokens: float
    exponent: float

    def __post_init__(self) -> None:
        check_positive(self)

    def tokens(self, loss: ArrayLike) -> Array:
        """Tokens per step."""
        return np.asarray(self.scale_tokens * array(loss) ** (-1 / self.exponent))

    def words(self) -> str:
        """The formula with its constants.

        >>> KAPLAN_BATCH.words()
        '2.1e+08 / loss^4.76 tokens'
        """
        return f"{self.scale_tokens:.3g} / loss^{1 / self.exponent:.3g} tokens"

    def loss(self, tokens: ArrayLike) -> Array:
        """The loss at which this batch is the critical one."""
        return np.asarray((self.scale_tokens / array(tokens)) ** self.exponent)

    def gradient(self, loss: ArrayLike) -> dict[str, Array]:
        """Derivatives of the critical batch by both constants and by `loss`."""
        loss = array(loss)
        tokens = self.tokens(loss)
        return {
            "scale_tokens": tokens / self.scale_tokens,
            "exponent": tokens * np.log(loss) / self.exponent**2,
            "loss": -tokens / (self.exponent * loss),
        }

    def steps(self, min_steps: ArrayLike, loss: ArrayLike, batch_tokens: ArrayLike) -> Array:
        """Steps at batch `batch_tokens` that do what `min_steps` do at an endless one."""
        return np.asarray(array(min_steps) * (1 + self.tokens(loss) / array(batch_tokens)))


@dataclass(frozen=True)
class KaplanSteps:
    """`(parameter_scale / parameters)^a_N + (step_scale / min_steps)^a_S`.

    >>> round(float(KAPLAN_STEPS.loss(parameters=1.5e9, min_steps=1e5)), 3)
    2.328
    """

    parameter_scale: float
    parameter_exponent: float
    step_scale: float
    step_exponent: float

    def __post_init__(self) -> None:
        check_positive(self)

    def floor(self, parameters: ArrayLike) -> Array:
        """Loss of this size after endless training."""
        return np.asarray((self.parameter_scale / array(parameters)) ** self.parameter_exponent)

    def loss(self, parameters: ArrayLike, min_steps: ArrayLike) -> Array:
        """Loss in nats per token after `min_steps` steps at an endless batch."""
        return np.asarray(self.floor(parameters) + (self.step_scale / array(min_steps)) ** self.step_exponent)

    def min_steps(self, parameters: ArrayLike, loss: ArrayLike) -> Array:
        """Steps at an endless batch until this size has this loss; infinity where it never does."""
        return length_for(loss, self.floor(parameters), self.step_scale, self.step_exponent)

    def step_curve(self, parameters: float) -> PowerCurve:
        """One size's curve against steps at the critical batch, of which twice the least are needed."""
        return PowerCurve(float(self.floor(parameters)), 2 * self.step_scale, self.step_exponent)

    def curve(self, parameters: float, batch_tokens: float) -> PowerCurve:
        """One size's curve against tokens at a fixed batch that is critical at the end: 2 S_min steps (arXiv 2203.06211)."""
        return PowerCurve(
            float(self.floor(parameters)), 2 * self.step_scale * batch_tokens, self.step_exponent
        )

    def gradient(self, parameters: ArrayLike, min_steps: ArrayLike) -> dict[str, Array]:
        """Derivatives of the loss by every constant, and by `parameters` and `min_steps`."""
        N, S = np.broadcast_arrays(array(parameters), array(min_steps))
        size = (self.parameter_scale / N) ** self.parameter_exponent
        length = (self.step_scale / S) ** self.step_exponent
        return {
            "parameter_scale": self.parameter_exponent * size / self.parameter_scale,
            "parameter_exponent": size * np.log(self.parameter_scale / N),
            "step_scale": self.step_exponent * length / self.step_scale,
            "step_exponent": length * np.log(self.step_scale / S),
            "parameters": -self.parameter_exponent * size / N,
            "min_steps": -self.step_exponent * length / S,
        }

    def cheapest(self, loss: float, batch: CriticalBatch) -> Optimum:
        """The size and length for a loss with the least 6 N B S, B = B_crit(loss), S = 2 S_min.

        At the optimum the loss is 1 + a_N / a_S = 1.10 times the size's floor: "stop 10 % above convergence" (section 6.3).
        """
        a, b = self.parameter_exponent, self.step_exponent
        parameters = self.parameter_scale / (loss * b / (a + b)) ** (1 / a)
        tokens = 2 * float(self.min_steps(parameters, loss)) * float(batch.tokens(loss))
        return Optimum(loss, parameters, tokens, 6 * parameters * tokens)


@dataclass(frozen=True)
class KaplanData:
    """`((parameter_scale / parameters)^(a_N / a_D) + token_scale / tokens)^a_D`: the loss that a data set allows.

    >>> round(float(KAPLAN_DATA.loss(parameters=1.5e9, tokens=1e10)), 3)
    2.373
    """

    parameter_scale: float
    parameter_exponent: float
    token_scale: float
    token_exponent: float

    def __post_init__(self) -> None:
        check_positive(self)

    def floor(self, parameters: ArrayLike) -> Array:
        """Loss of this size with endless data."""
        return np.asarray((self.parameter_scale / array(parameters)) ** self.parameter_exponent)

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Array:
        """Loss in nats per token."""
        return np.asarray(self._inner(array(parameters), array(tokens)) ** self.token_exponent)

    def tokens(self, parameters: ArrayLike, loss: ArrayLike) -> Array:
        """Tokens that allow this loss; infinity where the size is too small for it."""
        rest = array(loss) ** (1 / self.token_exponent) - self._size(array(parameters))
        with np.errstate(divide="ignore"):
            return np.asarray(self.token_scale / np.where(rest > 0, rest, 0.0))

    def gradient(self, parameters: ArrayLike, tokens: ArrayLike) -> dict[str, Array]:
        """Derivatives of the loss by every constant, and by `parameters` and `tokens`."""
        N, D = np.broadcast_arrays(array(parameters), array(tokens))
        a, d = self.parameter_exponent, self.token_exponent
        inner, size = self._inner(N, D), self._size(N)
        outer = d * inner ** (d - 1)  # d loss / d inner
        logarithm = np.log(self.parameter_scale / N)
        return {
            "parameter_scale": outer * size * (a / d) / self.parameter_scale,
            "parameter_exponent": outer * size * logarithm / d,
            "token_scale": outer / D,
            "token_exponent": inner**d * np.log(inner) - outer * size * logarithm * a / d**2,
            "parameters": -outer * size * (a / d) / N,
            "tokens": -outer * self.token_scale / D**2,
        }

    def _size(self, parameters: Array) -> Array:
        return np.asarray(
            (self.parameter_scale / parameters) ** (self.parameter_exponent / self.token_exponent)
        )

    def _inner(self, parameters: Array, tokens: Array) -> Array:
        return np.asarray(self._size(parameters) + self.token_scale / tokens)


@dataclass(frozen=True)
class KaplanFrontier:
    """Compute-efficient training as Kaplan et al. summarise it, in PF-days spent at a small batch (their C_min).

    >>> f"{float(KAPLAN_FRONTIER.parameters(pf_days=1.0)):.3g}"
    '1.3e+09'
    """

    loss_scale_pf_days: float
    loss_exponent: float
    parameters_at_one: float
    parameter_exponent: float

    def __post_init__(self) -> None:
        check_positive(self)

    def loss(self, pf_days: ArrayLike) -> Array:
        """The lowest loss for this compute."""
        return np.asarray((self.loss_scale_pf_days / array(pf_days)) ** self.loss_exponent)

    def pf_days(self, loss: ArrayLike) -> Array:
        """The compute that this loss needs."""
        return np.asarray(self.loss_scale_pf_days * array(loss) ** (-1 / self.loss_exponent))

    def parameters(self, pf_days: ArrayLike) -> Array:
        """The best size for this compute."""
        return np.asarray(self.parameters_at_one * array(pf_days) ** self.parameter_exponent)

    def gradient(self, pf_days: ArrayLike) -> dict[str, Array]:
        """Derivatives of the loss by its two constants and by `pf_days`."""
        compute = array(pf_days)
        loss = self.loss(compute)
        return {
            "loss_scale_pf_days": self.loss_exponent * loss / self.loss_scale_pf_days,
            "loss_exponent": loss * np.log(self.loss_scale_pf_days / compute),
            "pf_days": -self.loss_exponent * loss / compute,
        }


KAPLAN_STEPS = KaplanSteps(6.5e13, 0.077, 2.1e3, 0.76)
"""Table 3 of arXiv 2001.08361."""

KAPLAN_DATA = KaplanData(6.4e13, 0.076, 1.8e13, 0.103)
"""Table 2 of arXiv 2001.08361."""

KAPLAN_BATCH = CriticalBatch(2.1e8, 0.21)
"""Section 5 of arXiv 2001.08361, as arXiv 2203.06211 uses it."""

KAPLAN_FRONTIER = KaplanFrontier(2.3e8, 0.050, 1.3e9, 0.73)
"""Loss and best size against compute, as arXiv 2203.06211 uses them."""

STAGED_TRAINING = KaplanSteps(8.8e13, 0.076, 2.1e3, 0.76)
"""The constants with which Shen et al. compute their optimal schedules (arXiv 2203.06211, released code)."""
