"""`run.yaml`: a staged run as data, every key known, every mistake named before any work.

run.yaml + `--set a.b=1` -> RunConfig (frozen) -> saved beside the output, where it can be run again
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, AliasChoices, Field, model_validator

from outgrow.cost.spans import MASK_SHARE
from outgrow.files.section import Count, Seed, TokenCount
from outgrow.files.section import Section as _Section
from outgrow.parallel.mesh import MeshSizes
from outgrow.run.after_growth import FreezeConfig, MasksConfig, NewEntriesConfig
from outgrow.run.distil import DistilConfig
from outgrow.run.grow_config import GrowConfig
from outgrow.run.optimizer_config import AdamWConfig, OptimizerConfig
from outgrow.run.reentry import EqualLossPosition, Ratio, Reentry
from outgrow.run.schedule import WSD, Schedule
from outgrow.run.stage_data import (
    MOST_AT_ONCE,
    StageBatchConfig,
    StageDataConfig,
    check_batch,
    check_order,
    check_whole_steps,
)
from outgrow.run.stage_optimizer import StageOptimizerConfig, stage_optimizer
from outgrow.run.until import Until

TrainingPrecision = Literal["auto", "float32", "bf16"]
"""Of forward and backward passes; weights and moments stay float32. `auto`: bf16 where CUDA has it."""


class TokenizerConfig(_Section):
    """Either a byte-level BPE trained on the corpus, or an existing tokenizer."""

    vocab_size: Annotated[Count, Field(ge=257, le=2**24)] | None = None
    """Size of the byte-level BPE vocabulary to train."""
    path: str | None = None
    """An existing `tokenizer.json` or a folder that holds one."""

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizerConfig:
        if (self.vocab_size is None) == (self.path is None):
            given = "neither is given" if self.path is None else "both are given"
            raise ValueError(f"give vocab_size (a BPE tokenizer is trained on the corpus) or path: {given}")
        return self


def _distinct(classes: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if classes is not None and (len(set(classes)) < len(classes) or len(classes) < 2):
        raise ValueError("give two classes or more, each once")
    return classes


ImageClasses = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...] | None, Field(default=None), AfterValidator(_distinct)
]
"""Classes of a file of images; None is all of them."""


class DataConfig(_Section):
    """The text: where it is, how it becomes tokens, what is held out."""

    source: str = "stdlib"
    """`stdlib` (this Python's own sources), a text file, a glob, a folder, a json/csv/tsv/parquet file (packed too), or `hub:<name>`."""
    limit_bytes: TokenCount | None = None
    """Use at most this many bytes of text."""
    tokenizer: TokenizerConfig | None = None
    """Absent with `stages[0].from`: the tokenizer of that checkpoint."""
    sequence_length: Count = 256
    """Tokens that the model sees at once."""
    window: Count | None = None
    """Tokens of the windows in which the text is ordered (default: the longest sequences of any stage). Runs that read on where others stopped share it."""
    skip_steps: TokenCount = 0
    """Optimizer steps of this seed's order that are left out: those that the starting checkpoint was trained with."""
    mask_share: Annotated[float, Field(gt=0, lt=1)] = MASK_SHARE
    """Share of a training sequence that a masked model is to find, or T5 in spans; validation always asks for 15 %."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of the tokens held out at the end of the corpus, by documents."""
    validation_source: str | None = None
    """A separate source for validation; then nothing is held out."""
    separator: str = "auto"
    """Token that ends every document: `auto` (the tokenizer's end, else its beginning), `none`, or the token itself."""
    text_field: str = "text"
    """Column of a `datasets` source that holds the text."""
    split: str = "train"
    """Split of a `datasets` source."""
    subset: str | None = None
    """Configuration name of a `datasets` hub source."""
    images: str | None = None
    """An `.npz` file of images and labels, instead of text (`data/images.py` says its forms)."""
    validation_images: str | None = None
    """A separate file for validation; else the last `validation_share` of the images are held out."""
    classes: ImageClasses = None
    """Take the images of these classes alone; the first of them is class 0, and so on."""
    augment: Literal["none", "flip_crop"] = "none"
    """Training images as they are, or mirrored at random and moved by up to 1/8 of their side."""

    @model_validator(mode="after")
    def _classes_are_of_images(self) -> DataConfig:
        if self.classes is not None and self.images is None:
            raise ValueError("classes are of images: give images, or leave classes out")
        return self


class BatchConfig(_Section):
    """Sequences of one optimizer step, and how many of them at once."""

    sequences: Annotated[Count, Field(le=2**24)] = 16
    micro_batch: Count | None = None
    """Sequences of one forward pass (default: all); the gradients of a step are accumulated."""

    @model_validator(mode="after")
    def _divides(self) -> BatchConfig:
        if self.micro_batch is not None and self.sequences % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide sequences {self.sequences}")
        if self.at_once > MOST_AT_ONCE:
            raise ValueError(
                f"{self.at_once} sequences at once: give a micro_batch of at most {MOST_AT_ONCE}"
            )
        return self

    @property
    def at_once(self) -> int:
        """Sequences of one forward pass."""
        return self.micro_batch or self.sequences


class StageConfig(_Section):
    """Train for so many tokens at most, after growing from the stage before."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=100)]
    tokens: Count
    start: str | None = Field(
        None, validation_alias=AliasChoices("from", "start"), serialization_alias="from"
    )
    """First stage only: a checkpoint folder to continue from (`from:` in the file)."""
    grow: GrowConfig | None = None
    distil: DistilConfig | None = None
    """A new model in place of a growth, that first learns from the one before."""
    reentry: Reentry = Reentry()
    """How the learning rate goes on: position on the schedule, re-warm-up, peak."""
    until: Until | None = None
    """What ends the stage before its tokens are used: `{loss: 3.2}` or `{trigger: efficiency}`."""
    data: StageDataConfig | None = None
    """A length of its own."""
    batch: StageBatchConfig | None = None
    """A batch of its own."""
    precision: TrainingPrecision | None = None
    """A precision of its own, to train and to validate in."""
    optimizer: StageOptimizerConfig | None = None
    """Numbers of the run's optimizer that this stage changes."""
    new_entries: NewEntriesConfig | None = None
    """A learning rate of their own for what the growth added."""
    freeze: FreezeConfig | None = None
    """Tensors that are left alone for a while."""
    masks: MasksConfig | None = None
    """New units and layers fade in."""

    @model_validator(mode="after")
    def _knows_what_is_new(self) -> StageConfig:
        if self.grow is not None and self.distil is not None:
            raise ValueError("give one of grow and distil: a model is grown, or new")
        if self.grow is None and self.asks_what_is_new:
            raise ValueError(
                "new_entries, masks and freeze.what: old need a growth in the same stage to know what is new"
            )
        if self.grow is not None and self.grow.probe is not None and self.asks_what_is_new:
            raise ValueError(
                "new_entries, masks and freeze.what: old depend on the growth, which a probe has still to choose:"
                " leave one of them out"
            )
        if self.masks is not None and self.masks.rise_tokens > self.tokens:
            raise ValueError(f"masks.rise_tokens {self.masks.rise_tokens} is more than the stage's tokens")
        if self.masks is not None and self.until is not None:
            raise ValueError(
                "a stage with masks cannot end early: leave out until, or split the stage in two"
            )
        return self

    @property
    def asks_what_is_new(self) -> bool:
        """Whether anything here is about the entries that the stage's growth adds."""
        old = self.freeze is not None and self.freeze.what == "old"
        return old or self.new_entries is not None or self.masks is not None


class OwnSteps(Protocol):
    """What a stage may have of its own beside its model: what its steps read, and how they compute."""

    @property
    def data(self) -> StageDataConfig | None: ...
    @property
    def batch(self) -> StageBatchConfig | None: ...
    @property
    def precision(self) -> TrainingPrecision | None: ...
    @property
    def optimizer(self) -> StageOptimizerConfig | None: ...


class EvaluationConfig(_Section):
    """Validation loss on the same sequences every time."""

    every_tokens: Count | None = None
    """Besides at the end of every stage and after every growth."""
    sequences: Count = 64


class CheckpointConfig(_Section):
    """Training states to come back to; the end of a stage is always saved and kept."""

    every_steps: Count | None = 500
    keep: Count = 2
    """Newest checkpoints to keep inside a stage."""
    asynchronous: bool = False
    """Of several processes: train on while a checkpoint is written, for a copy of the state in the host's memory."""


class ParallelConfig(_Section):
    """How a run that is started as several processes cuts its models among them (docs/howto/distributed.md)."""

    shard: Count | None = None
    """Ranks among which one copy of the model is cut; by default all ranks divided by `replicate` and `tensor`."""
    replicate: Count = 1
    """Copies of the model (HSDP): usually the number of hosts."""
    tensor: Count = 1
    """Ranks that cut every layer inside and see the same sequences, by transformers' plan: GPUs of one host, where layers are wide."""
    reshard_after_forward: bool = True
    """Whether a layer's gathered weights are dropped between its forward and backward pass: less memory, more traffic."""
    activation_checkpointing: bool = False
    """Whether a layer's activations are computed again in the backward pass: less memory, a third more work."""
    parameters: Literal["auto", "float32", "bfloat16"] = "auto"
    """What weights are gathered and computed in; `auto` is bfloat16 where `precision` is. Shards stay float32."""
    gradients: Literal["float32", "bfloat16"] = "float32"
    """What gradients are summed in between ranks, where parameters are bfloat16."""

    def mesh(self, world: int) -> MeshSizes:
        """The mesh of so many ranks; ConfigError where it is another one's. A single process has no mesh to choose."""
        if world == 1:
            return MeshSizes()
        return MeshSizes.of(world, shard=self.shard, replicate=self.replicate, tensor=self.tensor)


class RunConfig(_Section):
    """A whole run. See `examples/quickstart.yaml`."""

    output: str
    """Folder of the run, relative to where the command is started."""
    model: dict[str, Any] | None = None
    """`model_type` and the config fields of the first stage; absent with `stages[0].from`."""
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = AdamWConfig()
    schedule: Schedule = Field(default_factory=lambda: WSD.model_validate({}))
    batch: BatchConfig = BatchConfig()
    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1)]
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    parallel: ParallelConfig = ParallelConfig()
    precision: TrainingPrecision = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    """Train compiled models (`torch.compile`): faster steps, after a minute or so at the beginning of every stage."""
    balancing: Annotated[float, Field(ge=0)] | None = None
    """Multiplies the balancing loss of a model with experts; null: the model's own `router_aux_loss_coef`."""
    bias_rate: Annotated[float, Field(ge=0)] = 1e-3
    """Step of loss-free balancing, where a router has a selection bias: idle experts' rises by it, others' falls."""
    seed: Seed = 0
    log_every_steps: Count = 10
    tensorboard: bool = False

    @model_validator(mode="after")
    def _stages_follow(self) -> RunConfig:
        first = self.stages[0]
        if (self.model is None) == (first.start is None):
            given = "neither is given" if self.model is None else "both are given"
            raise ValueError(f"give model (a new model) or stages[0].from (a checkpoint): {given}")
        if self.model is not None and "model_type" not in self.model:
            raise ValueError("model.model_type is missing (for example llama)")
        if first.grow is not None and first.start is None:
            raise ValueError("stages[0].grow needs stages[0].from: a new model has nothing to grow from")
        if first.distil is not None and first.start is None:
            raise ValueError(
                "stages[0].distil needs stages[0].from: there is no model before it to learn from"
            )
        if self.data.tokenizer is None and first.start is None and self.data.images is None:
            raise ValueError("data.tokenizer is missing (for example {vocab_size: 4096})")
        for index, stage in enumerate(self.stages[1:], start=1):
            if stage.start is not None:
                raise ValueError(f"stages[{index}].from: only the first stage can start from a checkpoint")
        for index, stage in enumerate(self.stages):
            position, peak = stage.reentry.position, stage.reentry.peak
            if stage.grow is None and (position == "loss_matched" or peak in ("size_law", "mup")):
                raise ValueError(f"stages[{index}].reentry: loss_matched, size_law and mup need a growth")
            if index == 0 and (position == "loss_matched" or isinstance(position, Ratio | EqualLossPosition)):
                raise ValueError(
                    "stages[0].reentry.position: nothing before it: give keep or a number of tokens"
                )
            if self.compile and stage.masks is not None:
                raise ValueError(
                    f"stages[{index}].masks change the model at every step, so it cannot be compiled: leave out one"
                )
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stages need different names, got {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _stages_share_an_order(self) -> RunConfig:
        if self.data.images is not None and self.data.window is not None:
            raise ValueError("data.window: images have no windows: leave it out")
        for index, stage in enumerate(self.stages):
            if stage.data is None and stage.batch is None:
                continue
            if self.data.images is not None and stage.data is not None:
                raise ValueError(f"stages[{index}].data.sequence_length: images have no length: leave it out")
            own = self.at(index)
            check_batch(f"stages[{index}]", own.batch.sequences, own.batch.micro_batch)
            check_whole_steps(f"stages[{index}]", stage.tokens, own.batch.sequences, own.item_tokens)
        if self.data.window is not None or any(stage.data is not None for stage in self.stages):
            for index in range(len(self.stages)):
                own = self.at(index)
                check_order(f"stages[{index}]", own.batch.sequences, own.item_tokens, self.window)
            if self.skipped_tokens % self.window:
                raise ValueError(
                    f"data.skip_steps: {self.skipped_tokens:,} tokens are no whole number of the longest sequences of the run"
                    f" ({self.window} tokens)"
                )
        return self

    @model_validator(mode="after")
    def _stages_have_its_optimizer(self) -> RunConfig:
        for index in range(len(self.stages)):
            self.at(index)
        return self

    def at(self, index: int) -> RunConfig:
        """The run as one of its stages does it: with what is that stage's own in the run's place."""
        return self.with_own(self.stages[index], f"stages[{index}]")

    def with_own(self, stage: OwnSteps, where: str) -> RunConfig:
        """The run with what a stage, of this run or of a study, has of its own."""
        own: dict[str, Any] = {}
        if stage.data is not None:
            own["data"] = self.data.model_copy(update=stage.data.model_dump(exclude_none=True))
        if stage.batch is not None:
            own["batch"] = self.batch.model_copy(update=stage.batch.model_dump(exclude_none=True))
        if stage.precision is not None:
            own["precision"] = stage.precision
        if stage.optimizer is not None:
            own["optimizer"] = stage_optimizer(where, self.optimizer, stage.optimizer)
        return self.model_copy(update=own) if own else self

    @property
    def window(self) -> int:
        """Tokens of the windows in which the text is ordered: as long as the longest sequences that any stage trains on, if not said."""
        return self.data.window or max(
            self.at(index).data.sequence_length for index in range(len(self.stages))
        )

    @property
    def item_tokens(self) -> int:
        """Tokens of one sequence; an image counts as one."""
        return 1 if self.data.images is not None else self.data.sequence_length

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, where a stage has no batch or length of its own (else see `at`)."""
        return self.batch.sequences * self.item_tokens

    @property
    def skipped_tokens(self) -> int:
        """Tokens of the order of the data that `data.skip_steps` leaves out."""
        return self.data.skip_steps * self.tokens_per_step

    def stage_steps(self, index: int) -> int:
        """Optimizer steps of a stage: its tokens, rounded up to whole steps."""
        return -(-self.stages[index].tokens // self.at(index).tokens_per_step)

    def stage_tokens(self, index: int) -> int:
        """Tokens of a stage in whole optimizer steps."""
        return self.stage_steps(index) * self.at(index).tokens_per_step

    def first_step(self, index: int) -> int:
        """Optimizer steps of the run before a stage, if none ends early (else see `training/course.py`)."""
        return sum(self.stage_steps(i) for i in range(index))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run, if no stage ends early."""
        return self.first_step(len(self.stages))

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run, if no stage ends early."""
        return sum(self.stage_tokens(index) for index in range(len(self.stages)))

    def resolved(self) -> dict[str, Any]:
        """Every value as plain data, defaults included: the `run.yaml` written beside the output."""
        return self.model_dump(mode="json", by_alias=True)
