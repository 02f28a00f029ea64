"""The settings of `learn`: one value with its defaults and checks. Run files, the command line and Python take theirs from here.

rate(step) = peak · (step + 1)/warmup, then peak · (steps - step)/(steps - warmup)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from outgrow.errors import ConfigError
from outgrow.files.section import LARGEST

GRADIENT_CLIP = 1.0
"""Largest norm of the gradient of a fit."""
SEQUENCES = 16
"""Sequences, or images, of a batch of a fit that is no part of a run."""
LENGTH = 256
"""Tokens of a sequence of such a fit."""


@dataclass(frozen=True)
class LearnOptions:
    """What is fitted on data, from where, and for how long (docs/explanation/learned.md).

    `start` is `exact` (a growth that keeps the function: `width` and `depth` name its operators), `published`, or one of
    the published starts as `WIDTH,DEPTH` (random, selection, sel_noisy; stack, interleave, each also _noisy; random).

    Raises ConfigError for a fit without a step, a rate that is not above 0, and a warm-up that outlasts the fit.

    >>> LearnOptions(start="published").peak, LearnOptions(learning_rate=2e-3).peak
    (0.001, 0.002)
    """

    method: str = "ligo"
    start: str = "exact"
    width: str = "isometric"
    depth: str = "identity"
    rank: int = 1
    """Of Mango's ring."""
    steps: int = 100
    learning_rate: float | None = None
    """Peak, reached after the warm-up and 0 at the end; default 3e-4 from an exact start, else 1e-3."""
    warmup_steps: int | None = None
    """Default a tenth of the steps."""
    dropout: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check_number("steps", self.steps)
        if self.steps < 1 or not 0 < self.peak <= LARGEST:
            raise ConfigError(
                "a fit needs at least one step and a learning rate above 0",
                got=f"{self.steps} steps at {self.peak}",
                expected=f"1 or more, at up to {LARGEST:g}",
            )
        if self.warmup_steps is not None and not 0 <= self.warmup_steps < self.steps:
            raise ConfigError(
                f"warmup_steps {self.warmup_steps} must be fewer than steps {self.steps}: "
                "the warm-up ends before the fit does",
                fix="choose a tenth of the steps, or less",
            )

    @property
    def peak(self) -> float:
        """Largest learning rate: at 1e-3 the loss of an exact start first rises by 0.05 (docs/explanation/learned.md)."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 3e-4 if self.start == "exact" else 1e-3

    def rate(self, step: int) -> float:
        """Learning rate of a step: up to the peak, then a line to 0.

        >>> options = LearnOptions(steps=20, learning_rate=1.0)
        >>> options.rate(0), options.rate(2), options.rate(11)
        (0.5, 1.0, 0.5)
        """
        warmup = self.steps // 10 if self.warmup_steps is None else self.warmup_steps
        if step < warmup:
            return self.peak * (step + 1) / warmup
        return self.peak * (1 - (step - warmup) / (self.steps - warmup))

    @property
    def unread(self) -> tuple[str, ...]:
        """Options that a fit by this method from this start never reads.

        >>> LearnOptions().unread, LearnOptions(method="mango", start="published").unread
        (('rank',), ('width', 'depth'))
        """
        of_the_start = () if self.start == "exact" else ("width", "depth")
        return (*of_the_start, *(() if self.method == "mango" else ("rank",)))

    @property
    def unused(self) -> tuple[str, ...]:
        """Of these, the ones that are not at their defaults.

        >>> LearnOptions(rank=7).unused
        ('rank',)
        """
        return tuple(name for name in self.unread if getattr(self, name) != getattr(LearnOptions, name))

    @property
    def record(self) -> dict[str, Any]:
        """How the numbers were fitted, as it is kept beside them."""
        return {
            "steps": self.steps,
            "learning_rate": self.peak,
            "warmup": self.warmup_steps,
            "gradient_clip": GRADIENT_CLIP,
            "dropout": self.dropout,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class LesaOptions:
    """`hidden` units and `rank` singular vectors at most for each kind of matrix, `steps` Adam steps each.

    `width` widens all layers; `noise` and `seed` are those of a growth, in units of the model's initializer range.
    Raises ConfigError for a number below 1.
    """

    width: str = "isometric"
    noise: float = 0.1
    steps: int = 200
    hidden: int = 64
    rank: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for word in ("steps", "hidden", "rank"):
            _check_number(word, getattr(self, word))
            if getattr(self, word) < 1:
                raise ConfigError(
                    f"LESA's {word} is a number of at least 1",
                    got=getattr(self, word),
                    fix=f"choose another {word}",
                )


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} of a fit is a whole number", got=repr(value), expected=f"as {name}=100")
