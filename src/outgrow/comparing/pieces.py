"""A study as a tree of short runs, each known by its content, so that nothing is ever run twice.

    piece = (parent, configuration of one run)        key = hash of both

Arms that begin alike share pieces: three operators grown from one small model share its training. Adding an arm, a seed or
a budget later adds pieces and leaves the others as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outgrow.comparing.steps import StudySteps
from outgrow.comparing.study import ArmStage, StudyConfig
from outgrow.errors import ConfigError
from outgrow.run.config import RunConfig
from outgrow.run.run_file import parse_run
from outgrow.training.folder import RunFolder, finished_metrics
from outgrow.training.stage_plans import StagePlan


@dataclass(frozen=True)
class Piece:
    """One run of the tree: trained from its parent's final state (or from new weights) with a configuration of its own."""

    name: str
    parent: Piece | None
    settings: dict[str, Any]
    """The run without its output and its starting checkpoint."""
    arm: str
    """The arm that it was made for; others may have it too."""
    stage: int
    """Which of the arm's stages it belongs to, from 0."""

    @property
    def key(self) -> str:
        """Of everything that decides the result, ancestors included."""
        content = [self.parent.key if self.parent else None, self.settings]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def begins(self) -> bool:
        """Whether its stage begins with it."""
        return self.parent is None or self.parent.stage != self.stage

    @property
    def line(self) -> tuple[Piece, ...]:
        """The piece and its ancestors, oldest first."""
        return (*(self.parent.line if self.parent else ()), self)

    def run(self, folder: str) -> RunConfig:
        """The run that makes this piece, in the folder of all pieces."""
        settings = {**self.settings, "output": f"{folder}/{self.key}"}
        if self.parent is not None:
            # Resolved: another spelling of the folder is no other run.
            parent = Path(folder).resolve() / self.parent.key / "final"
            stage = {**settings["stages"][0], "from": str(parent)}
            if stage.get("until") is not None:
                # The curve that its trigger fits began with the first stage, in another piece.
                used = sum(piece.tokens_used(folder) for piece in self.parent.line)
                stage["reentry"] = {**stage.get("reentry", {}), "position": used}
            settings["stages"] = [stage]
        return parse_run(settings, where=f"piece {self.name}")

    @property
    def tokens(self) -> int:
        """Tokens that it trains on, at most."""
        return int(self.settings["stages"][0]["tokens"])

    def tokens_used(self, folder: str) -> int:
        """Tokens that it has trained on, fewer than planned where a trigger ended it; the planned ones as long as it is not finished."""
        run = RunFolder(Path(folder) / self.key)
        if not run.is_finished:
            return self.tokens
        return int([row for row in finished_metrics(run) if row["kind"] == "validation"][-1]["tokens"])


@dataclass(frozen=True)
class Branch:
    """One decayed end: its arm, seed, rate and budget (tokens of the last stage)."""

    arm: str
    seed: int
    rate: float
    budget: int
    piece: Piece

    @property
    def last_stage(self) -> tuple[Piece, ...]:
        """Its line without the small stages: the growth and what follows."""
        return tuple(piece for piece in self.piece.line if piece.stage == self.piece.stage)


def all_pieces(found: Iterable[Branch]) -> list[Piece]:
    """All pieces of some branches, parents before children, shared ones once."""
    pieces: dict[str, Piece] = {}
    for branch in found:
        for piece in branch.piece.line:
            pieces.setdefault(piece.key, piece)
    return list(pieces.values())


def flops(piece: Piece, plans: Mapping[str, Sequence[StagePlan]]) -> float:
    """Of a piece, by the plans of its arm: what a stage does at its begin, its growth and what is frozen then, falls on its first one."""
    plan = plans[piece.arm][piece.stage]
    steps = piece.tokens // (plan.tokens // plan.steps)
    return plan.probe_flops + plan.flops_after(steps) if piece.begins else steps * plan.plain_flops


def arm_run(study: StudyConfig, arm: str) -> RunConfig:
    """An arm as one whole run up to its largest budget: nobody trains it, but every growth in it can be checked."""
    config, steps = study.arms[arm], StudySteps(study)
    stages = [
        {
            "name": f"stage-{place + 1}",
            "tokens": steps.whole(arm, place, stage.tokens or study.arm_budgets(arm)[-1]),
            **stage.beginning(),
            **stage.own_steps(),
        }
        | ({"grow": stage.grow.model_dump(mode="json", exclude_unset=True)} if stage.grow else {})
        for place, stage in enumerate(config.stages)
    ]
    settings = {**study.common, "output": "-", "model": config.model, "stages": stages}
    settings["data"] = {**study.common.get("data", {}), **steps.window_key(arm, range(len(stages)))}
    return parse_run({**settings, "schedule": {"kind": "constant"}}, where=f"arm {arm}")


def with_thresholds(study: StudyConfig, plans: Mapping[str, Sequence[StagePlan]]) -> StudyConfig:
    """The study with every trigger's threshold as numbers: a piece is trained alone and does not see the growth after it."""
    arms = {}
    for arm, config in study.arms.items():
        stages = [
            stage.model_copy(update={"until": stage.until.model_copy(update={"threshold": plan.threshold})})
            if stage.until is not None and plan.threshold is not None
            else stage
            for stage, plan in zip(config.stages, plans[arm], strict=True)
        ]
        arms[arm] = config.model_copy(update={"stages": tuple(stages)})
    return study.model_copy(update={"arms": arms})


def branches(
    study: StudyConfig, arm: str, seed: int, rate: float, budgets: tuple[int, ...]
) -> tuple[Branch, ...]:
    """The decayed ends of one arm's trunk at several budgets, smallest first.

    Raises `ConfigError` where two budgets come to the same number of whole optimizer steps, and where a treatment or the
    warm-up would be cut.
    """
    steps, last = StudySteps(study), len(study.arms[arm].stages) - 1
    builder = _Builder(steps, arm, seed, rate)
    _check_uncut(study, arm, steps.whole(arm, last, budgets[0] * (1 - study.decay_share)))
    trunk: Piece | None = builder.young()
    found, trained, longest = [], 0, 0
    for budget in budgets:
        stable = steps.whole(arm, last, budget * (1 - study.decay_share))
        if stable > trained:
            trunk = builder.trunk(trunk, stable - trained, first=trained == 0)
            trained = stable
        end = trained + steps.whole(arm, last, budget - trained)
        if end <= longest:
            raise ConfigError(
                f"budgets of arm '{arm}' lie within one optimizer step",
                got=f"{budget:,} tokens come to {end:,}, the budget before them to {longest:,}",
                fix=f"leave {steps.unit(arm, last):,} tokens or more between them",
            )
        longest = end
        assert trunk is not None, "the first budget has at least one step"
        found.append(Branch(arm, seed, rate, budget, builder.decay(trunk, budget - trained)))
    return tuple(found)


def end_branches(
    study: StudyConfig, rates: Mapping[str, float], seeds: Mapping[str, Sequence[int]]
) -> list[Branch]:
    """All budgets of some seeds of every arm that is named, each arm at its learning rate."""
    return [
        branch
        for arm, own in seeds.items()
        for seed in own
        for branch in branches(study, arm, seed, rates[arm], study.arm_budgets(arm))
    ]


def _check_uncut(study: StudyConfig, arm: str, stretch: int) -> None:
    """What follows a growth, and the warm-up, have to end within the piece that they begin in: the next one knows nothing of them.

    `stretch`: tokens of the last stage up to its first decay.
    """
    stages = study.arms[arm].stages
    last = stages[-1]
    lasting: list[tuple[str, float]] = []
    if last.reentry is not None:
        lasting.append(("reentry.rewarm_tokens", last.reentry.rewarm_tokens))
    if last.masks is not None:
        lasting.append(("masks.rise_tokens", last.masks.rise_tokens))
    if last.distil is not None:
        lasting.append(("distil.tokens", last.distil.tokens))
    if last.freeze is not None:
        lasting.append(("freeze.tokens", last.freeze.tokens or math.inf))
    if (new := last.new_entries) is not None and new.fall_tokens is not None:
        lasting.append(("new_entries, rise and fall,", new.rise_tokens + new.fall_tokens))
    elif new is not None and len(study.arm_budgets(arm)) > 1:
        lasting.append(("new_entries without fall_tokens", math.inf))
    where = f"arms.{arm}.stages[{len(stages) - 1}]"
    checks = [(f"{where}.{name}", tokens, stretch) for name, tokens in lasting]
    checks.append(("warmup_tokens", study.warmup_tokens, stages[0].tokens or stretch))
    for name, tokens, most in checks:
        if tokens > most:
            raise ConfigError(
                f"{name}: a study cuts this stage into pieces, and this would be cut with it",
                got="until the end of the stage" if tokens == math.inf else f"{tokens:,} tokens",
                expected=f"at most the {most:,} tokens of its first piece",
                fix="shorten it, or leave out the smallest budgets of this arm",
            )


@dataclass
class _Builder:
    """Adds pieces one after the other, each going on in the order of the data where the one before stopped."""

    steps: StudySteps
    arm: str
    seed: int
    rate: float
    tokens: int = 0
    """Of the pieces so far."""

    @property
    def study(self) -> StudyConfig:
        return self.steps.study

    @property
    def stages(self) -> Sequence[ArmStage]:
        return self.study.arms[self.arm].stages

    def young(self) -> Piece | None:
        """All stages before the last, at the peak rate."""
        piece: Piece | None = None
        for place, stage in enumerate(self.stages[:-1]):
            assert stage.tokens is not None
            piece = self._piece(piece, f"stage-{place + 1}", stage.tokens, place, "constant", begins=True)
        return piece

    def trunk(self, parent: Piece | None, tokens: int, *, first: bool) -> Piece:
        """A stretch of the last stage at the peak rate; the first one begins with the growth."""
        return self._piece(parent, "trunk", tokens, len(self.stages) - 1, "constant", begins=first)

    def decay(self, parent: Piece, tokens: int) -> Piece:
        """The end of a branch: the rate falls to zero. The trunk goes on with the data that the branch took too."""
        used = self.tokens
        piece = self._piece(parent, "decay", tokens, len(self.stages) - 1, "linear", begins=False)
        self.tokens = used
        return piece

    def _piece(
        self, parent: Piece | None, name: str, tokens: int, place: int, schedule: str, *, begins: bool
    ) -> Piece:
        """A part of the stage at a place; the first of its parts begins as the stage does."""
        common, own = self.study.common, self.stages[place]
        rate = self.rate * own.rate
        stage: dict[str, Any] = {
            "name": name,
            "tokens": self.steps.whole(self.arm, place, tokens),
            **own.own_steps(),
        }
        if begins:
            stage |= own.beginning()
            if own.grow is not None:
                stage["grow"] = {"seed": self.seed, **own.grow.model_dump(mode="json", exclude_unset=True)}
        settings: dict[str, Any] = {
            **common,
            "seed": self.seed,
            "data": {
                **common.get("data", {}),
                **self.steps.window_key(self.arm, [place]),
                "skip_steps": self.tokens // self.steps.common.tokens_per_step,
            },
            "optimizer": {**common.get("optimizer", {}), "learning_rate": rate},
            "stages": [stage],
            "schedule": {"kind": schedule},
        }
        if parent is None:
            settings |= {"model": self.study.arms[self.arm].model}
            settings["schedule"]["warmup_tokens"] = self.study.warmup_tokens
        else:
            settings["data"].pop("tokenizer", None)  # the checkpoint's own
        words = f"{self.arm}, {name}, seed {self.seed}, rate {rate:g}"
        piece = Piece(words, parent, settings, self.arm, place)
        self.tokens += stage["tokens"]
        return piece
