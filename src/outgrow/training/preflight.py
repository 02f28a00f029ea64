"""Before any work: everything that can be wrong with a run and be known without reading data or weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from outgrow.data.corpus import open_corpus
from outgrow.data.images import load_images
from outgrow.data.masked import check_tokens
from outgrow.data.needs import Needs, TextNeeds
from outgrow.data.opening import run_objective, special_tokens
from outgrow.data.spans import check_sentinels
from outgrow.data.tokenizer import find_tokenizer
from outgrow.engine.step import check_compiler, choose_device
from outgrow.errors import ConfigError, told_of
from outgrow.files.reading import expanded
from outgrow.parallel.mesh import MeshSizes
from outgrow.parallel.ranks import ALONE, Ranks
from outgrow.parallel.tensor import check_tensor
from outgrow.run.config import BatchConfig, DataConfig, RunConfig
from outgrow.run.reentry import EqualLossPosition
from outgrow.state.training_state import TrainingState
from outgrow.training.course import read_curve
from outgrow.training.rates import rate_warnings
from outgrow.training.stage_plans import StagePlan, open_start, plan_stages
from outgrow.training.tensorboard import check_tensorboard
from outgrow.training.trigger import FEWEST_ROWS


@dataclass(frozen=True)
class Preflight:
    """What is known of a run before it starts."""

    stages: tuple[StagePlan, ...]
    corpus: str
    warnings: tuple[str, ...]
    """What is allowed and probably not wanted."""
    needs: Needs
    """What the plans took the data to ask of the models."""
    start: TrainingState | None
    """The checkpoint that the run starts from: opened once, and handed on."""


def preflight(
    run: RunConfig,
    ranks: Ranks = ALONE,
    *,
    headers_only: bool = False,
    show: bool = False,
    place: str = "",
) -> Preflight:
    """Check device, ranks, sources, tokenizer, models and every growth; raises the first mistake.

    Every byte of the checkpoint that the run starts from is read, unless `headers_only`; `show`: with a bar.
    `place` stands before what is wrong with models and stages: whose they are, where runs share the rest.
    """
    check_ranks(run, ranks.world)
    device = choose_device(run, ranks)
    for index in range(len(run.stages)):
        device.at(run.at(index))
    check_compiler(device)
    if run.tensorboard:
        check_tensorboard()
    with told_of(place):
        objective = run_objective(run)
    needs, description = _images(run) if objective == "image" else _text(run, objective)
    start = open_start(run, headers_only=headers_only, show=show)
    with told_of(place):
        plans = plan_stages(run, needs, start)
        check_slices(run, plans, start, ranks.world)
    for plan in plans:
        if isinstance(plan.position, EqualLossPosition):
            read_curve(plan.position)
    warnings = (*rate_warnings(run, plans), *_trigger_warnings(run))
    return Preflight(plans, description, warnings, needs, start)


def check_ranks(run: RunConfig, world: int) -> None:
    """The mesh is that of the ranks, they share the micro-batches of a step evenly, and the optimizer's state can be cut."""
    if world == 1:
        return
    sizes = run.parallel.mesh(world)
    for index, stage in enumerate(run.stages):
        _check_shares(run.at(index).batch, sizes, "batch" if stage.batch is None else f"stages.{index}.batch")
    if run.optimizer.name == "adafactor":
        raise ConfigError(
            "optimizer.name: adafactor trains on one rank alone: its factors are means over whole rows and columns",
            got=f"{world} ranks",
            fix="use adamw, sgd, lion or muon, or one process",
        )
    if sizes.tensor > 1:
        _check_sliced(run, sizes.tensor)


def _check_shares(batch: BatchConfig, sizes: MeshSizes, where: str) -> None:
    """The micro-batches of a step are a multiple of the ranks that see different ones."""
    sequences, parts = batch.sequences, sizes.data
    if parts > 1 and (batch.micro_batch is None or sequences // batch.micro_batch % parts):
        fitting = [size for size in range(1, sequences + 1) if sequences % (size * parts) == 0]
        ranks = f"{parts} ranks" if sizes.tensor == 1 else f"{parts} groups of {sizes.tensor} ranks"
        raise ConfigError(
            f"{where}: {ranks} cannot share the micro-batches of a step evenly",
            got=f"{sequences} sequences in micro-batches of {batch.at_once}",
            expected=f"micro_batch one of {', '.join(map(str, fitting))}"
            if fitting
            else f"sequences a multiple of {parts}",
            fix=f"set {where}.micro_batch when the run begins and keep it: dropout's randomness goes by micro-batch",
        )


def _check_sliced(run: RunConfig, tensor: int) -> None:
    """Nothing is asked for that wants whole activations, where layers are cut inside."""
    if run.compile:
        raise ConfigError(
            "compile: compiled layers that are cut inside lose a part of their gradients (torch 2.13)",
            got=f"parallel.tensor {tensor}",
            fix="leave out compile, or parallel.tensor",
        )
    for index, stage in enumerate(run.stages):
        if stage.masks is not None:
            raise ConfigError(
                f"stages.{index}.masks change activations, which are cut inside the layers here",
                got=f"parallel.tensor {tensor}",
                fix="leave out masks, or parallel.tensor",
            )


def check_slices(run: RunConfig, plans: Sequence[StagePlan], start: TrainingState | None, world: int) -> None:
    """Every model of the run can be cut inside its layers as it asks: raises ConfigError for the first that cannot."""
    tensor = run.parallel.mesh(world).tensor
    if start is not None:
        check_tensor(start.config, tensor, "stages.0.from")
    for plan in plans:
        check_tensor(plan.config, tensor, f"the model of stage '{plan.name}'")


def _images(run: RunConfig) -> tuple[Needs, str]:
    data = load_images(run.data)
    return data.needs, data.summary


def _text(run: RunConfig, objective: str) -> tuple[Needs, str]:
    """What the text asks of a model, as far as can be known before it is read, and a line about it."""
    corpus = _check_source(run.data, run.data.source, "data.source")
    if run.data.validation_source is not None:
        _check_source(run.data, run.data.validation_source, "data.validation_source")
    tokenizer, special = run.data.tokenizer, special_tokens(run, objective)
    if tokenizer is not None and tokenizer.vocab_size is not None:
        least = 257 + len(special)
        if tokenizer.vocab_size < least:
            raise ConfigError(
                "data.tokenizer.vocab_size has no room for the tokens that stand for what is hidden",
                got=tokenizer.vocab_size,
                expected=f"at least {least}: 256 bytes, the end of a document, and {len(special)} more",
            )
        pad = 1 + list(special).index("pad_token") if special else None
        return TextNeeds(tokenizer.vocab_size, run.data.sequence_length, 0, pad), corpus
    path = tokenizer.path if tokenizer is not None else run.stages[0].start
    assert path is not None, "RunConfig asks for a tokenizer or a checkpoint"
    found = find_tokenizer(expanded(path), run.data.separator)
    if objective == "masked":
        check_tokens(found)
    elif objective == "denoising":
        check_sentinels(found, max(run.window, run.data.sequence_length), run.data.mask_share)
    pad = found.pad if special else None
    return TextNeeds(found.vocab_size, run.data.sequence_length, found.separator or 0, pad), corpus


def _trigger_warnings(run: RunConfig) -> tuple[str, ...]:
    """Stages whose log is too sparse for their trigger."""
    found = []
    for index, stage in enumerate(run.stages):
        rows = run.stage_steps(index) // run.log_every_steps
        if stage.until is not None and rows * (1 - stage.until.window) < FEWEST_ROWS:
            found.append(
                f"stage '{stage.name}' logs {rows} rows, too few for its trigger to fit {FEWEST_ROWS} of them: "
                "it will use all its tokens; lower log_every_steps"
            )
    return tuple(found)


def _check_source(config: DataConfig, source: str, place: str) -> str:
    return open_corpus(
        source, text_field=config.text_field, split=config.split, subset=config.subset, place=place
    ).description
