"""A study as data: what all arms share, the arms, seeds, learning rates and budgets.

Every arm is a list of stages; the last has no length of its own: its *trunk* is trained at a constant rate and decayed in
branches at several budgets (arXiv 2404.06395), so that one trunk gives a whole frontier of decayed losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from outgrow.comparing.arm_files import with_run_files
from outgrow.comparing.arm_schedules import OWN_STEPS, with_schedules
from outgrow.errors import ConfigError, near
from outgrow.files.mistakes import explain
from outgrow.files.reading import expanded
from outgrow.files.section import Count, Section, Seed, TokenCount
from outgrow.files.yaml_file import apply_override, read_yaml
from outgrow.run.after_growth import FreezeConfig, MasksConfig, NewEntriesConfig
from outgrow.run.config import ImageClasses, RunConfig, TrainingPrecision
from outgrow.run.distil import DistilConfig
from outgrow.run.grow_config import GrowConfig
from outgrow.run.reentry import Reentry
from outgrow.run.stage_data import StageBatchConfig, StageDataConfig
from outgrow.run.stage_optimizer import StageOptimizerConfig
from outgrow.run.until import Until

_OWN = ("output", "seed", "stages", "schedule", "model", "checkpoint")
_OWN_INSIDE = (("data", "skip_steps"), ("optimizer", "learning_rate"))


class ArmStage(Section):
    """One stage of an arm: how its model comes to be, and, but for the last, how long it is trained."""

    tokens: Count | None = None
    grow: GrowConfig | None = None
    distil: DistilConfig | None = None
    """A new model in place of a growth, that first learns from the one before: knowledge inheritance."""
    rate: Annotated[float, Field(gt=0)] = 1.0
    """Learning rate of this stage as a multiple of the one that the sweep chooses for the arm: 0.5 at twice the width (muP)."""
    reentry: Reentry | None = None
    new_entries: NewEntriesConfig | None = None
    freeze: FreezeConfig | None = None
    masks: MasksConfig | None = None
    until: Until | None = None
    """What ends a small stage before its tokens are used, as `{trigger: efficiency}`; what follows begins in the data behind them all."""
    data: StageDataConfig | None = None
    """A length of its own; losses are read at the study's."""
    batch: StageBatchConfig | None = None
    """A batch of its own."""
    precision: TrainingPrecision | None = None
    """A precision of its own, but for the last stage: losses are read in the study's."""
    optimizer: StageOptimizerConfig | None = None
    """Numbers of the optimizer of its own."""

    def beginning(self) -> dict[str, Any]:
        """What the run's stage takes over as it is where the stage begins."""
        own = {"tokens", "grow", "rate", *OWN_STEPS}
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude=own)

    def own_steps(self) -> dict[str, Any]:
        """What all of its steps differ in from those of the study."""
        said = self.model_dump(mode="json", exclude_none=True, exclude_unset=True, include=set(OWN_STEPS))
        return {**said, "optimizer": self.optimizer.model_dump(mode="json")} if self.optimizer else said


class ArmConfig(Section):
    """One way to train: a first model, and stages that grow it."""

    model: dict[str, Any]
    """`model_type` and config fields of the first stage."""
    stages: Annotated[tuple[ArmStage, ...], Field(min_length=1)] = (ArmStage(),)
    budgets: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    """Tokens of the last stage, decay included, at which this arm is decayed; default: the study's."""

    @model_validator(mode="after")
    def _stages_follow(self) -> ArmConfig:
        if "model_type" not in self.model:
            raise ValueError("model.model_type is missing (for example llama)")
        if self.stages[0].grow is not None:
            raise ValueError("stages[0].grow: a new model has nothing to grow from")
        if self.stages[0].distil is not None:
            raise ValueError("stages[0].distil: a first model has none before it to learn from")
        for place, stage in enumerate(self.stages):
            if stage.reentry is not None and stage.reentry.position != "keep":
                raise ValueError(
                    f"stages[{place}].reentry.position: a study trains at a constant rate and decays in branches; leave it out"
                )
            if stage.reentry is not None and stage.reentry.peak != "keep":
                raise ValueError(
                    f"stages[{place}].reentry.peak: a study sweeps the learning rate; give stages[{place}].rate, a multiple of it"
                )
            if stage.grow is not None and stage.grow.operator is not None:
                raise ValueError(
                    f"stages[{place}].grow.operator: a study counts what an operator's fit costs; give stages[{place}].grow.learn"
                )
        for place, stage in enumerate(self.stages[:-1]):
            if stage.tokens is None:
                raise ValueError(
                    f"stages[{place}].tokens is missing: only the last stage takes its length from budgets"
                )
        last = self.stages[-1]
        if last.tokens is not None or last.until is not None:
            raise ValueError("the last stage takes its length from budgets: leave its tokens and until out")
        if last.precision is not None:
            raise ValueError(
                f"stages[{len(self.stages) - 1}].precision: losses are read in the last stage, by all arms in"
                " common.precision: leave it out"
            )
        return self

    @property
    def is_scratch(self) -> bool:
        """Whether nothing grows, and nothing is taught by a smaller model."""
        return all(stage.grow is None and stage.distil is None for stage in self.stages)


class RefineConfig(Section):
    """How a sweep goes on from its rates by a rule: until the best has a neighbour on both sides, no more than `to` times away."""

    to: Annotated[float, Field(ge=1.05)]
    """Below 1.05 neighbours differ by less than any seed does."""
    most: Annotated[int, Field(ge=1, le=32)]
    """Rates that the rule may add to those of an arm."""


class TuningConfig(Section):
    """The same small sweep of the learning rate for every arm; the best rate is used for all its seeds and budgets."""

    rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    budget: Count | None = None
    """The budget at which rates are compared; default: the largest of the arm."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """A rate's loss is the mean over these: on one seed noise may choose between neighbours."""
    refine: RefineConfig | None = None
    """From these rates to others, by the same rule for every arm (`sweeps.py`)."""

    @model_validator(mode="after")
    def _has_a_step(self) -> TuningConfig:
        if self.refine is not None and len(self.rates) < 2:
            raise ValueError("refine goes on by the step between rates: give two rates or more")
        return self


class EarlyStopConfig(Section):
    """Arms that are clearly behind get no more seeds (`stopping.py`); declared before the study, and counted in its report."""

    after: Annotated[int, Field(ge=2)]
    """Seeds, the first of the study's, after which it looks once."""


class TimingConfig(Section):
    """How the speed of every model is measured at the end (`train/compare/timing.py`)."""

    rounds: Count = 5
    """Every model has its turn in each round; one more round before them warms up and is not counted."""
    steps: Count = 3
    """Optimizer steps of a turn."""


class FinetuningConfig(Section):
    """Fine-tuning, with the same settings for every arm."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    epochs: Count = 3
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    batch: Count = 32
    examples: Count | None = None
    """Use at most so many training examples of a task."""


class TasksConfig(FinetuningConfig):
    """Sentence classification: `sst2_train.tsv.xz`, `sst2_dev.tsv.xz` ..."""

    folder: str
    """Where the files are."""
    names: Annotated[tuple[Literal["sst2", "cola", "mrpc", "rte"], ...], Field(min_length=1)]


class QuestionsConfig(FinetuningConfig):
    """Answers to questions on a text: `squad1.1_dev.json.xz` ...; without `..._train.json.xz` the articles of `dev` are split."""

    folder: str
    """Where the files are."""
    names: Annotated[tuple[Literal["squad1.1", "squad2.0"], ...], Field(min_length=1)]
    epochs: Count = 2
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    batch: Count = 12
    length: Count | None = None
    """Tokens of an input, question and a window of the text; default: `data.sequence_length`."""


class TransferConfig(FinetuningConfig):
    """Classes of other images, for image models."""

    train: str
    """An `.npz` file of images and labels to learn from."""
    test: str
    """Another to be asked about."""
    classes: ImageClasses = None
    """Take the images of these classes alone."""
    batch: Count = 64


class DownstreamConfig(Section):
    """What else is asked of the last state of every arm's largest budget."""

    lambada: str | None = None
    """A .jsonl file (also .xz, .gz) of passages whose last word is to be found: `{"text": ...}`."""
    passages: Count | None = None
    """Use at most so many passages."""
    perplexity: dict[str, str] = Field(default_factory=dict)
    """Name -> a source of text of another domain."""
    sequences: Count = 512
    """Sequences of each of these."""
    tasks: TasksConfig | None = None
    questions: QuestionsConfig | None = None
    transfer: TransferConfig | None = None


class StudyConfig(Section):
    """A whole study. See `benchmarks/studies/`."""

    output: str
    """Folder of the study."""
    pieces: str | None = None
    """Folder of the trained pieces; default: `pieces` in `output`. Studies that name the same one train what they share once."""
    title: str = ""
    common: dict[str, Any]
    """What every run shares, in the words of `run.yaml`: data, optimizer, batch, evaluation, precision, device."""
    arms: Annotated[dict[str, ArmConfig], Field(min_length=1)]
    baseline: str
    """The arm from scratch against which savings are read."""
    budgets: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Tokens of the last stage, decay included."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    early_stop: EarlyStopConfig | None = None
    tuning: TuningConfig
    warmup_tokens: TokenCount = 0
    decay_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of every budget over which its branch decays to zero."""
    timing: TimingConfig = TimingConfig()
    downstream: DownstreamConfig = DownstreamConfig()

    @field_validator("output", "pieces")
    @classmethod
    def _expanded(cls, folder: str | None) -> str | None:
        return None if folder is None else str(expanded(folder))

    @model_validator(mode="after")
    def _counts_once(self) -> StudyConfig:
        several = {"seeds": self.seeds, "tuning.rates": self.tuning.rates, "tuning.seeds": self.tuning.seeds}
        for name, values in several.items():
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: {', '.join(map(str, values))} has one of them twice")
        return self

    @model_validator(mode="after")
    def _stops_before_the_end(self) -> StudyConfig:
        if self.early_stop is not None and self.early_stop.after >= len(self.seeds):
            raise ValueError(
                f"early_stop.after: {self.early_stop.after} of {len(self.seeds)} seeds leaves none to stop before"
            )
        if self.early_stop is not None and sum(not arm.is_scratch for arm in self.arms.values()) < 2:
            raise ValueError("early_stop compares arms that grow, and this study has fewer than two")
        return self

    @model_validator(mode="after")
    def _fits(self) -> StudyConfig:
        if not all(arm.strip() for arm in self.arms):
            raise ValueError("arms: an arm has no name")
        if self.baseline not in self.arms:
            raise ValueError(f"baseline '{self.baseline}' is no arm; arms: {', '.join(self.arms)}")
        if not self.arms[self.baseline].is_scratch:
            raise ValueError(f"baseline '{self.baseline}' grows: the baseline is trained from scratch")
        if len(self.arms[self.baseline].stages) > 1:
            raise ValueError(
                f"baseline '{self.baseline}' has {len(self.arms[self.baseline].stages)} stages: it trains in one;"
                " what it would be with a schedule is an arm of its own"
            )
        for name in _OWN:
            if name in self.common:
                raise ValueError(f"common.{name}: the study sets this itself")
        for section, name in _OWN_INSIDE:
            if isinstance(self.common.get(section), dict) and name in self.common[section]:
                raise ValueError(f"common.{section}.{name}: the study sets this itself")
        for arm, config in self.arms.items():
            budgets = config.budgets or self.budgets
            if list(budgets) != sorted(set(budgets)):
                raise ValueError(f"budgets of arm '{arm}' must rise")
            if self.tuning.budget is not None and self.tuning.budget not in budgets:
                raise ValueError(f"tuning.budget {self.tuning.budget} is none of the budgets of arm '{arm}'")
        return self

    @property
    def pieces_folder(self) -> str:
        """Where the trained pieces lie, each in a folder of its own."""
        return self.pieces or f"{self.output}/pieces"

    def arm_budgets(self, arm: str) -> tuple[int, ...]:
        """Tokens of an arm's last stage at its branches."""
        return self.arms[arm].budgets or self.budgets

    def tuning_budget(self, arm: str) -> int:
        """Where this arm's learning rates are compared."""
        return self.tuning.budget or self.arm_budgets(arm)[-1]


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study file and apply `a.b=value` overrides. Raises `ConfigError` that names what is wrong."""
    data = read_yaml(Path(path))
    for override in overrides:
        apply_override(data, override)
    return parse_study(data, where=str(path))


def parse_study(data: dict[str, Any], where: str = "the study") -> StudyConfig:
    """A study from plain data."""
    data = with_schedules(with_run_files(data, where), where)
    try:
        study = StudyConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, data, where, StudyConfig)) from None
    known = set(RunConfig.model_fields) - set(_OWN)
    for name in study.common:
        if name not in known:
            raise ConfigError(f"{where}: unknown key common.{name}", expected=near(str(name), known))
    return study
