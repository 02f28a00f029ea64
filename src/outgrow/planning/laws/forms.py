"""Laws as sums of powers, for fitting: which logarithms each term reads, and the law that coefficients stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from outgrow.planning.laws.chinchilla import Chinchilla
from outgrow.planning.laws.kaplan import KaplanData, KaplanSteps
from outgrow.planning.laws.power import Array, PowerCurve
from outgrow.planning.laws.saturation import Saturation

Law = TypeVar("Law")


@dataclass(frozen=True)
class LawForm(Generic[Law]):
    """A law as a sum of powers: which logarithms each term reads, and the law that coefficients stand for.

    `terms[k]` lists the products of columns that term k reads; every term also has a constant (its log size).
    """

    name: str
    columns: tuple[str, ...]
    terms: tuple[tuple[tuple[str, ...], ...], ...]
    build: Callable[[Array], Law]
    """Coefficients in the order of `terms` (constant first), natural logarithms of columns not centred -> law."""
    divisors: tuple[str | None, ...] = ()
    """Of each term: a column that divides it, with no exponent to fit."""
    outer: bool = False
    """Whether the sum itself is taken to a power; the logarithm of that power is the last coefficient."""

    @property
    def size(self) -> int:
        """How many numbers are fitted."""
        return sum(1 + len(term) for term in self.terms) + self.outer

    def design(self, logs: Mapping[str, Array]) -> Design:
        """The law at these points, as a function of its coefficients."""
        points = len(next(iter(logs.values())))
        x, place = np.zeros((points, len(self.terms), self.size)), 0
        for k, term in enumerate(self.terms):
            factors = [np.ones(points), *(np.prod([logs[c] for c in columns], axis=0) for columns in term)]
            for factor in factors:
                x[:, k, place] = factor
                place += 1
        fixed = np.zeros((points, len(self.terms)))
        for k, column in enumerate(self.divisors):
            if column is not None:
                fixed[:, k] = -logs[column]
        return Design(x, fixed, self.outer)


@dataclass(frozen=True)
class Design:
    """log loss = p log sum_k exp(x_k . theta + fixed_k) at every point: x [point, term, coefficient], theta [start, coefficient]."""

    x: Array
    fixed: Array
    outer: bool

    def log_loss(self, theta: Array) -> Array:
        """[start, point]."""
        return np.asarray(self._power(theta) * np.logaddexp.reduce(self._logs(theta), axis=2))

    def jacobian(self, theta: Array) -> tuple[Array, Array]:
        """Log loss [start, point], and its derivatives [start, point, coefficient]."""
        logs, power = self._logs(theta), self._power(theta)
        total = np.logaddexp.reduce(logs, axis=2)
        log_loss = power * total
        found = power[:, :, None] * np.einsum("snk,nkp->snp", np.exp(logs - total[:, :, None]), self.x)
        if self.outer:
            found[:, :, -1] = log_loss  # d exp(q) t / dq
        return log_loss, found

    def _logs(self, theta: Array) -> Array:
        return np.asarray(np.einsum("nkp,sp->snk", self.x, theta) + self.fixed)

    def _power(self, theta: Array) -> Array:
        return np.exp(theta[:, -1:]) if self.outer else np.ones((len(theta), 1))


def _curve(t: Array) -> PowerCurve:
    return PowerCurve(float(np.exp(t[0])), float(np.exp(t[1] / -t[2])), float(-t[2]))


def _chinchilla(t: Array) -> Chinchilla:
    return Chinchilla(
        float(np.exp(t[0])), float(np.exp(t[1])), -float(t[2]), float(np.exp(t[3])), -float(t[4])
    )


def _kaplan(t: Array) -> KaplanSteps:
    return KaplanSteps(float(np.exp(t[0] / -t[1])), -float(t[1]), float(np.exp(t[2] / -t[3])), -float(t[3]))


def _kaplan_data(t: Array) -> KaplanData:
    power = float(np.exp(t[3]))  # of the sum: the exponent of the tokens
    inner = -float(t[1])  # a_N / a_D
    return KaplanData(float(np.exp(t[0] / inner)), inner * power, float(np.exp(t[2])), power)


def _saturation(t: Array) -> Saturation:
    return Saturation(float(np.exp(t[0])), float(np.exp(t[1])), -float(t[2]), -float(t[3]), float(t[4]))


CURVE_FORM = LawForm("curve", ("tokens",), ((), (("tokens",),)), _curve)
"""One size's own curve: floor + (scale / tokens)^exponent."""
CHINCHILLA_FORM = LawForm(
    "chinchilla", ("parameters", "tokens"), ((), (("parameters",),), (("tokens",),)), _chinchilla
)
"""E + A / N^a + B / D^b."""
KAPLAN_FORM = LawForm("kaplan", ("parameters", "min_steps"), ((("parameters",),), (("min_steps",),)), _kaplan)
"""(N_c / N)^a_N + (S_c / S)^a_S: no irreducible loss."""
KAPLAN_DATA_FORM = LawForm(
    "kaplan_data",
    ("parameters", "tokens"),
    ((("parameters",),), ()),
    _kaplan_data,
    divisors=(None, "tokens"),
    outer=True,
)
"""((N_c / N)^(a_N / a_D) + D_c / D)^a_D."""
SATURATION_FORM = LawForm(
    "saturation",
    ("base_tokens", "second_tokens"),
    ((), (("base_tokens",), ("second_tokens",), ("base_tokens", "second_tokens"))),
    _saturation,
)
"""A D1^-a1 D2^(-a2 + a3 ln D1) + E."""
LAW_FORMS: Mapping[str, LawForm[Any]] = {
    form.name: form for form in (CURVE_FORM, CHINCHILLA_FORM, KAPLAN_FORM, KAPLAN_DATA_FORM, SATURATION_FORM)
}
