"""Runs what a study still lacks, sweep and seeds, and collects the decayed frontiers.

What is trained comes from `pieces.py`, and is trained by `piece_trainer.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from outgrow.comparing.cautions import study_cautions
from outgrow.comparing.check import check_study
from outgrow.comparing.downstream import downstream
from outgrow.comparing.piece_trainer import PieceTrainer, Say
from outgrow.comparing.pieces import Branch, Piece, all_pieces, end_branches, with_thresholds
from outgrow.comparing.provenance import check_same_data, machines
from outgrow.comparing.ran import Ran, flops_of, ran
from outgrow.comparing.result import Point, StudyResult, trial_losses
from outgrow.comparing.steps import StudySteps
from outgrow.comparing.stopping import StoppedArm, seeds_by_arm, stopped_arms
from outgrow.comparing.study import StudyConfig
from outgrow.comparing.sweeps import best_rate, sweep_branches, sweep_trials
from outgrow.comparing.timing import Timed, by_key, study_speeds
from outgrow.cost.flops import model_cost
from outgrow.files.atomic import write_json_atomic, write_text_atomic
from outgrow.files.locks import claim
from outgrow.files.yaml_file import dump_yaml


def run_study(study: StudyConfig, say: Say = print) -> StudyResult:
    """Do a study, or what is left of it; the result is also written to `study.json`. Raises what its two parts raise."""
    return with_scores(measure_savings(study, say), say)


def measure_savings(study: StudyConfig, say: Say) -> StudyResult:
    """All of a study but its downstream scores.

    Raises `ConfigError` before any training for a mistake in any arm, and what `train_run` raises.
    """
    plans = check_study(study, say)
    study = with_thresholds(study, plans)
    trainer = PieceTrainer(plans, study.pieces_folder, say)
    sweep = [branch for arm in study.arms for branch in sweep_branches(study, arm)]
    root = Path(study.output)
    claim(root, "study.yaml")
    write_text_atomic(
        root / "study.yaml", dump_yaml(study.model_dump(mode="json", by_alias=True, exclude_unset=True))
    )
    folder = study.pieces_folder
    sweep = _swept(study, sweep, trainer)
    trials = sweep_trials(sweep, folder)
    rates = {arm: best_rate(trials, arm) for arm in study.arms}
    for arm, rate in rates.items():
        say(f"{arm}: learning rate {rate:g} of {', '.join(f'{one:g}' for one in trial_losses(trials, arm))}")
    stopped = _looked(study, rates, trainer)
    ends = end_branches(study, rates, seeds_by_arm(study, stopped))
    trainer.train(all_pieces(ends), "study")
    used = all_pieces([*sweep, *ends])
    check_same_data(used, folder)
    result = StudyResult(
        study=study,
        points=_points(study, ends, say),
        sweep=trials,
        rates=rates,
        stopped=stopped,
        sweep_flops=sum(flops_of(piece, folder) for piece in all_pieces(sweep)),
        trained_on=machines(used, folder),
    )
    result = replace(result, cautions=study_cautions(result))
    write_json_atomic(root / "study.json", result.to_json())
    return result


def _swept(study: StudyConfig, sweep: list[Branch], trainer: PieceTrainer) -> list[Branch]:
    """Train a sweep, and round by round what the rule of refinement adds to it; all its ends."""
    while True:
        trainer.train(all_pieces(sweep), "sweep", later=_after_sweep(study, sweep), may_diverge=True)
        longer = [branch for arm in study.arms for branch in sweep_branches(study, arm)]
        if len(longer) == len(sweep):
            return sweep
        sweep = longer


def _after_sweep(study: StudyConfig, sweep: Sequence[Branch]) -> list[Piece]:
    """Pieces that the sweep does not train; their rate is not known yet, and where arms that share pieces find different ones, there are a few more."""
    swept = {piece.key for piece in all_pieces(sweep)}
    rates = dict.fromkeys(study.arms, study.tuning.rates[0])
    ends = end_branches(study, rates, dict.fromkeys(study.arms, study.seeds))
    return [piece for piece in all_pieces(ends) if piece.key not in swept]


def _looked(study: StudyConfig, rates: Mapping[str, float], trainer: PieceTrainer) -> tuple[StoppedArm, ...]:
    """Where the study declares it, train the first seeds of all arms and look which arms get no more."""
    if study.early_stop is None:
        return ()
    first = dict.fromkeys(study.arms, study.seeds[: study.early_stop.after])
    trainer.train(all_pieces(end_branches(study, rates, first)), "first seeds")
    stopped = stopped_arms(study, rates)
    for one in stopped:
        trainer.say(
            f"{one.arm}: no more seeds, behind {one.leader}; {one.spared_tokens:,} tokens are not trained"
        )
    return stopped


def with_scores(result: StudyResult, say: Say) -> StudyResult:
    """The result with what else is asked of its models; the savings are written already, whatever the scores come to."""
    seeds = seeds_by_arm(result.study, result.stopped)
    found = downstream(result.study, end_branches(result.study, result.rates, seeds), say)
    result = replace(result, downstream=found)
    write_json_atomic(Path(result.study.output) / "study.json", result.to_json())
    return result


def point_of(branch: Branch, steps: StudySteps, speeds: Mapping[str, float]) -> Point:
    """What a finished branch came to: its own loss, and the cost of its whole line."""
    folder = steps.study.pieces_folder
    line, last = ([ran(piece, folder) for piece in some] for some in (branch.piece.line, branch.last_stage))
    *before, end = line
    return Point(
        arm=branch.arm,
        seed=branch.seed,
        rate=branch.rate,
        budget=branch.budget,
        loss=end.loss,
        accuracy=end.accuracy,
        tokens=sum(one.tokens for one in line),
        tokens_sunk=sum(one.tokens for one in last),
        flops=sum(one.flops for one in line),
        flops_sunk=sum(one.flops for one in last),
        undecayed_loss=before[-1].loss,
        undecayed_flops=sum(one.flops for one in before),
        seconds=sum(_seconds(branch, line, place, steps, speeds) for place in range(len(line))),
        parameters=model_cost(end.config).non_embedding,
        folder=branch.piece.key,
    )


def _seconds(
    branch: Branch, line: Sequence[Ran], place: int, steps: StudySteps, speeds: Mapping[str, float]
) -> float:
    """Of a piece at one sitting; asking a teacher, the model before it, takes a third of a step of that model, as its FLOPs do."""
    one, run = line[place], steps.of(branch.arm, branch.piece.line[place].stage)

    def of(model: Ran) -> float:
        return speeds[Timed(model.config, run).key(steps.common)]

    asked = one.taught_tokens * of(line[place - 1]) / 3 if one.taught_tokens else 0
    return one.tokens * of(one) + asked + one.growth_seconds


def _points(study: StudyConfig, ends: Sequence[Branch], say: Say) -> tuple[Point, ...]:
    """All ends, with the time that they would have taken on this machine at one sitting."""
    steps = StudySteps(study)
    arms = {piece.key: (branch.arm, piece) for branch in ends for piece in branch.piece.line}
    some = [one for arm, piece in arms.values() for one in _timed(arm, piece, steps)]
    models = by_key(some, steps.common)
    say(f"timing: {len(models)} models in turns")
    speeds = study_speeds(models, steps.common, study.timing, Path(study.output))
    return tuple(point_of(branch, steps, speeds) for branch in ends)


def _timed(arm: str, piece: Piece, steps: StudySteps) -> list[Timed]:
    """The model of a finished piece of an arm with what its steps read, and its teacher's with the same."""
    folder, run = steps.study.pieces_folder, steps.of(arm, piece.stage)
    own = ran(piece, folder)
    found = [Timed(own.config, run)]
    if own.taught_tokens:
        assert piece.parent is not None, "a teacher was trained before"
        found.append(Timed(ran(piece.parent, folder).config, run))
    return found
