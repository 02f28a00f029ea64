"""How a model grows besides its sizes: what somebody said, and what holds where nobody did.

The one place that knows the defaults and the checks; Python calls, the command line and run files all make this value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from outgrow.algebra.slots import Moments
from outgrow.errors import GrowthError, near
from outgrow.growth.plan import check_moments

_MOST_NOISE = 1000.0  # in units of the initializer range; more would only destroy


@dataclass(frozen=True)
class Usual:
    """Options that every growth has. Width and experts follow from the model: `usual_width`, and `copy`."""

    depth: str = "stack"
    moments: Moments = "transport"
    noise: float = 0.1
    seed: int = 0


USUAL = Usual()
"""How a state grows where nobody says."""


@dataclass(frozen=True, kw_only=True)
class GrowthOptions:
    """How to grow, besides the sizes. None: not said.

    Raises GrowthError for a value that no growth can have.

    >>> options = GrowthOptions(width="pad", noise=0.0)
    >>> options.said, options.filled
    (('width', 'noise'), Usual(depth='stack', moments='transport', noise=0.0, seed=0))
    """

    width: str | None = None
    depth: str | None = None
    experts: str | None = None
    noise: float | None = None
    """Standard deviation of the noise that no reader sees, in units of the model's initializer range."""
    seed: int | None = None
    moments: Moments | None = None

    def __post_init__(self) -> None:
        for kind in ("width", "depth", "experts"):
            _check_operator(kind, getattr(self, kind))
        _check_noise(self.noise)
        _check_seed(self.seed)
        if self.moments is not None:
            check_moments(self.moments)

    @classmethod
    def of(cls, how: Mapping[str, Any]) -> GrowthOptions:
        """The options that were given by name. Raises GrowthError for a name that is none, with the near ones.

        >>> GrowthOptions.of({"width": "pad"}).width
        'pad'
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in how:
            if name not in known:
                raise GrowthError(
                    f"unknown option of a growth: '{name}' ({near(name, known)})",
                    fix="correct it, or leave it out",
                )
        return cls(**how)

    @classmethod
    def unusual(cls, **how: Any) -> GrowthOptions:
        """The options that differ from what is usual: who passes a default on has not said it.

        >>> GrowthOptions.unusual(depth="stack", noise=0.0).said
        ('noise',)
        """
        usual = vars(USUAL)
        return cls.of({name: value for name, value in how.items() if value != usual.get(name)})

    @property
    def said(self) -> tuple[str, ...]:
        """Names of what was said."""
        return tuple(name for name, value in vars(self).items() if value is not None)

    @property
    def filled(self) -> Usual:
        """What was said, and what is usual for the rest."""
        own = {name: getattr(self, name) for name in vars(USUAL) if name in self.said}
        return dataclasses.replace(USUAL, **own)


def _check_operator(kind: str, text: object) -> None:
    if text is not None and not isinstance(text, str):
        raise GrowthError(
            f"{kind} names an operator by a word",
            got=repr(text),
            expected="a name, as in outgrow.operators()",
        )


def _check_seed(seed: object) -> None:
    if seed is not None and not isinstance(seed, Integral):
        raise GrowthError("seed is a whole number", got=repr(seed), expected="as seed=0")


def _check_noise(noise: Any) -> None:
    is_number = isinstance(noise, Real)
    if noise is not None and not (is_number and 0 <= noise <= _MOST_NOISE):
        raise GrowthError("noise is a standard deviation", got=repr(noise), expected=f"0 to {_MOST_NOISE:g}")
