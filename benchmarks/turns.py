"""Two models' steps in turns on one machine: what `compiled.py` and `masked_head.py` share."""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass

from outgrow.comparing.timing import Turn


@dataclass(frozen=True)
class Turns:
    """Seconds of every turn of one model and of the other."""

    rounds: tuple[tuple[float, float], ...]
    tokens: int
    """Of a turn."""

    def seconds_per_token(self) -> tuple[float, float]:
        """Median over rounds, of each."""
        one, other = (statistics.median(column) / self.tokens for column in zip(*self.rounds, strict=True))
        return one, other

    def speed_up(self) -> str:
        """Of the other over the one: median, lowest and highest round."""
        ratios = sorted(one / other for one, other in self.rounds)
        return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def in_turns(one: Turn, other: Turn, options: argparse.Namespace) -> Turns:
    rounds = tuple((one.take(options.steps), other.take(options.steps)) for _ in range(options.rounds))
    return Turns(rounds, options.steps * options.length * options.sequences)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The options that every timing in turns has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    return parser
