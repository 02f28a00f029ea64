"""A curve file as a plan names it: where it lies, and what it does not say itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from outgrow.errors import ConfigError, near


@dataclass(frozen=True)
class CurveFile:
    """A file, and what it does not say itself.

    `parameters` is needed where the file does not name the model: one number, or one per run of a table. `tokens_per_step`
    is needed where it counts steps. `tag` is the series that is the loss, in files that hold several.
    """

    path: Path
    parameters: float | Mapping[str, float] | None = None
    tokens_per_step: float | None = None
    tag: str | None = None

    def parameters_of(self, run: str = "") -> float:
        """Parameters of a run's model; `run` is "" where the file holds one run without a name."""
        if self.parameters is None:
            raise ConfigError(
                f"{self.path}: the file does not say how many parameters the model has",
                fix="give parameters, in plan.yaml as curves: [{path: ..., parameters: 10M}]",
            )
        if not isinstance(self.parameters, Mapping):
            return self.parameters
        if run not in self.parameters:
            raise ConfigError(
                f"{self.path}: parameters does not name the run '{run}'"
                if run
                else f"{self.path}: parameters are given by run, but the file holds one run without a name",
                expected=near(run, self.parameters) if run else "a number",
                fix="name every run, or leave its columns out of the file" if run else "give one number",
            )
        return self.parameters[run]

    def check_runs(self, runs: Sequence[str]) -> None:
        """Raise `ConfigError` where `parameters` names a run that the file does not hold, though its runs have names."""
        named = self.parameters if isinstance(self.parameters, Mapping) else {}
        for run in named:
            if any(runs) and run not in runs:
                raise ConfigError(
                    f"{self.path}: no run '{run}', which parameters names", expected=near(run, runs)
                )

    def step_tokens(self) -> float:
        """Tokens of a step, for a file that counts steps."""
        if self.tokens_per_step is None:
            raise ConfigError(
                f"{self.path}: the file counts steps, not tokens",
                fix="give tokens_per_step, in plan.yaml as curves: [{path: ..., tokens_per_step: 64k}]",
            )
        return self.tokens_per_step

    def refuse(self, *keys: str, why: str) -> None:
        """Raise `ConfigError` where a key is given that the file itself answers."""
        given = [key for key in keys if getattr(self, key) is not None]
        if given:
            verb = "is" if len(given) == 1 else "are"
            raise ConfigError(
                f"{self.path}: {' and '.join(given)} {verb} given, but {why}",
                fix=f"leave {' and '.join(given)} out",
            )
