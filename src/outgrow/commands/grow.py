"""`outgrow grow`: what the growth keeps and costs, then the grown state, streamed from file to file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.commands.options import GrowCall, asked_sizes
from outgrow.commands.outcome import Outcome
from outgrow.commands.writing import read_state, writing_speed, written_line
from outgrow.engine.progress import bytes_progress
from outgrow.errors import CheckpointError, ConfigError
from outgrow.files.atomic import check_destination
from outgrow.growth.plan import GrowthPlan
from outgrow.growth.rank_costs import Placement, RankCosts, rank_costs
from outgrow.methods.learned.fitted import FittedOperator
from outgrow.methods.options import GrowthOptions
from outgrow.models.architecture import load_architecture, resolve
from outgrow.models.bare import head_names
from outgrow.models.conversion import Conversion, conversion
from outgrow.models.model import Model
from outgrow.parallel.ranks import Ranks, start_ranks
from outgrow.report.explain import GrowthCosts, growth_costs
from outgrow.report.files import file_lines
from outgrow.state.asked import plan_asked
from outgrow.state.converting import converted
from outgrow.state.growing import apply
from outgrow.state.grown_view import GrownView
from outgrow.state.operator_file import load_operator
from outgrow.state.rescheduling import has_ended, rescheduled
from outgrow.state.shared_statistics import share_statistics
from outgrow.state.training_state import TrainingState
from outgrow.store.config_file import load_config
from outgrow.store.contents import has_moments
from outgrow.store.hub import local_folder
from outgrow.store.inventory import fates
from outgrow.store.layouts import check_writable
from outgrow.text.numbers import amount, duration

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Grown(Outcome):
    """A growth that was done, or in a dry run would be."""

    call: GrowCall
    plan: GrowthPlan
    costs: GrowthCosts
    files: Mapping[str, Any]
    optimizer: bool
    """Whether one comes along, with its schedule."""
    cautions: tuple[str, ...]
    schedule_ended: bool
    """Whether the run that the state comes from had no step left."""

    def show(self, console: Console) -> None:
        """What to do now, and where the state is; what is kept was printed before the work."""
        call = self.call
        for line in what_next(self):
            console.print(line, markup=False, soft_wrap=True)
        if not call.dry_run:
            console.print(written_line(call.checkpoint, call.out), soft_wrap=True)

    def to_json(self) -> dict[str, Any]:
        """The plan, what it costs, and what becomes of every file."""
        own = {"costs": self.costs.describe(), "files": self.files, "output": str(self.call.out)}
        return {**self.plan.describe(), **own, "cautions": list(self.cautions)}


@dataclass(frozen=True)
class NewNames(Outcome):
    """The parameters of new layers."""

    names: Sequence[str]

    def show(self, console: Console) -> None:
        """One per line."""
        for name in self.names:
            console.print(name, markup=False, soft_wrap=True)

    def to_json(self) -> list[str]:
        """The names."""
        return list(self.names)


@dataclass(frozen=True)
class RanksPlanned(Outcome):
    """What a growth would cost each of so many processes."""

    plan: GrowthPlan
    ranks: int
    costs: Mapping[Placement, RankCosts]
    bytes_per_second: float | None
    """Of a disk like that of the destination; None where nothing can be written there."""

    def show(self, console: Console) -> None:
        """A line for each way to place the tensors."""
        counted = "weights" if self.plan.moments == "reset" else "weights and AdamW's two moments"
        console.print(f"By config.json alone, {counted} in float32:", markup=False)
        for placement, found in self.costs.items():
            cost = found.describe()
            most = cost["largest_rank"]
            console.print(
                f"{_PLACEMENTS[placement]}: {self.ranks:,} ranks read {amount(cost['bytes_read'])}B and write "
                f"{amount(cost['bytes_written'])}B, {cost['amplification']:.2f} bytes for one that is needed; "
                f"the largest, rank {most['rank']}, reads {amount(most['bytes_read'])}B and writes "
                f"{amount(most['bytes_written'])}B; memory at most {amount(cost['memory_bytes'])}B a rank"
                + self._time(placement),
                markup=False,
                soft_wrap=True,
            )

    def to_json(self) -> dict[str, Any]:
        """The plan, and all numbers."""
        return {
            **self.plan.describe(),
            "ranks": {name: one.describe() for name, one in self.costs.items()},
            "seconds": None if self.bytes_per_second is None else self._seconds(self.bytes_per_second),
        }

    def _time(self, placement: Placement) -> str:
        if placement != "files" or self.bytes_per_second is None:
            return ""
        return (
            f"; about {duration(self._seconds(self.bytes_per_second))} where each writes as fast as this disk"
        )

    def _seconds(self, speed: float) -> float:
        """Of the rank that writes most, file to file."""
        return float(self.costs["files"].written.max()) / speed


def run(call: GrowCall, console: Console) -> Grown | NewNames | RanksPlanned:
    """Show the plan, and grow by it. All that is cheap to refuse is, before any tensor is read.

    Started by torchrun, every process calls this, computes and writes its share, and the first one talks.
    """
    sizes = asked_sizes(call.to)
    if not sizes and call.operator is None:
        raise _nothing_to_grow(call)
    options = GrowthOptions(**{name: getattr(call, name) for name in _HOW})
    config = load_config(call.checkpoint)
    _check_head(config)
    described = None if call.as_type is None else conversion(config, call.as_type)
    fitted = None if call.operator is None else load_operator(call.operator)
    config = config if described is None else dict(described.config)
    plan = plan_asked(config, fitted, to=sizes, options=options)
    if call.list_new:
        return NewNames(plan.new_parameters)
    if call.for_ranks is not None:
        return _plan_ranks(call, plan, call.for_ranks)
    ranks = start_ranks()
    with ranks.watched():
        return _grow(call, console, plan, fitted, described, ranks)


def _check_head(config: Mapping[str, Any]) -> None:
    """A decoder's folder without the head is one that was saved by mistake: what scores its tokens is lost.

    Encoders are published without theirs. In Python either grows.
    """
    bare = resolve(config)
    whole = load_architecture(bare.spec.model_type)
    if whole.objective != "causal" or not bare.spec.outputs:
        return
    lost = head_names(resolve({**config, "architectures": [whole.class_]}), bare)
    if lost:
        raise CheckpointError(
            f"the source is a {bare.class_name}, a {whole.class_} without its head",
            got=f"no {', '.join(lost)}",
            fix=f"save the {whole.class_} and grow that; without a head it grows in Python, by `outgrow.grow`",
        )


_HOW = ("width", "depth", "experts", "moments", "noise", "seed")


def _nothing_to_grow(call: GrowCall) -> ConfigError:
    alone = f"for a conversion alone: outgrow convert {call.checkpoint} {call.out} --as {call.as_type}"
    return ConfigError(
        "nothing says what to grow",
        expected="--to NAME=NUMBER, or --operator FOLDER",
        fix=None if call.as_type is None else alone,
    )


def _grow(
    call: GrowCall,
    console: Console,
    plan: GrowthPlan,
    fitted: FittedOperator | None,
    described: Conversion | None,
    ranks: Ranks,
) -> Grown:
    """What was planned, every process its share."""
    check_destination(call.out, overwrite=call.overwrite, sources=[call.checkpoint])
    ranks.agree("the growth", [plan.describe(), str(call.checkpoint), str(call.out), call.format])
    state = read_state(
        call.checkpoint,
        console,
        allow_nonfinite=call.allow_nonfinite,
        headers_only=call.dry_run,
        ranks=ranks,
    )
    if described is not None:
        state = converted(state, described, moments=plan.moments, seed=plan.growth.seed)
    grown = rescheduled(
        apply(plan, state, operator=fitted),
        learning_rate=call.learning_rate,
        reset_schedule=call.reset_schedule,
    )
    check_writable(grown, call.format, ranks)
    found = fates(grown.files, call.format, moments=call.format != "hub" and has_moments(grown.source))
    optimizer = grown.optimizer is not None and call.format != "hub"
    costs = _costs(plan, state, call.out, probe=call.dry_run)
    cautions = _cautions(plan.large, local_folder(call.checkpoint))
    outcome = Grown(call, plan, costs, found, optimizer, cautions, has_ended(grown.records))
    _print_plan(console, plan, outcome.costs)
    console.print(_moments(plan, state, call.format), markup=False)
    for line in file_lines(call.checkpoint, found):
        console.print(line, markup=False, soft_wrap=True)
    for caution in outcome.cautions:
        console.print(f"caution: {caution}", style="yellow", markup=False, soft_wrap=True)
    if not call.dry_run:
        assert isinstance(grown.source, GrownView)
        share_statistics(grown.source, ranks)
        with bytes_progress("writing", show=not console.quiet) as progress:
            grown.save_pretrained(
                call.out, format=call.format, overwrite=call.overwrite, progress=progress, ranks=ranks
            )
    return outcome


def _plan_ranks(call: GrowCall, plan: GrowthPlan, ranks: int) -> RanksPlanned:
    """From the config alone: no tensor has to be there. Weights and AdamW's moments, in float32."""
    if not call.dry_run:
        fix = "give --dry-run too, or start the growth by torchrun --nproc-per-node N -m outgrow grow ..."
        raise ConfigError("--ranks only plans", fix=fix)
    if not 1 <= ranks <= _MOST_RANKS:
        raise ConfigError("--ranks is a number of processes", got=ranks, expected=f"1 to {_MOST_RANKS:,}")
    check_destination(call.out, overwrite=call.overwrite, sources=[call.checkpoint])
    slots = ("weight",) if plan.moments == "reset" else ("weight", "exp_avg", "exp_avg_sq")
    costs = {placement: rank_costs(plan, ranks, placement, slots=slots) for placement in _PLACEMENTS}
    return RanksPlanned(plan, ranks, costs, writing_speed(_existing(call.out)))


_MOST_RANKS = 1 << 16
"""The share of each is worked out: seconds for so many."""
_PLACEMENTS: Mapping[Placement, str] = {"files": "file to file", "shards": "into FSDP2 shards"}
_OPENED: Mapping[str, str] = {
    "native": "`from: {out}` in a run.yaml of `outgrow train`, or {opened}",
    "trainer": "Trainer(model={opened}, callbacks=[outgrow.OwnArguments()], ...)"
    ".train(resume_from_checkpoint={out!r})",
    "hub": "{opened}; the optimizer begins anew",
}
_TOKENS_PER_PARAMETER = 20
"""Where Chinchilla's law ends a compute-optimal training (arXiv 2203.15556)."""


def what_next(grown: Grown) -> tuple[str, ...]:
    """What to do with the grown state: how it goes on, at which rate, for how long, what may be frozen."""
    plan, lines = grown.plan, ["What now:"]
    if grown.call.format in _OPENED:
        out = str(grown.call.out)
        opened = _opened(plan.large, out)
        lines.append(f"  open    {_OPENED[grown.call.format].format(out=out, opened=opened)}")
    if not grown.optimizer:
        lines.append("  rate    a schedule of its own, with a warm-up: no optimizer comes along")
    elif plan.moments == "reset":
        lines.append("  rate    go on with the schedule, after a short warm-up: the moments begin anew")
    elif grown.schedule_ended:
        lines.append("  rate    the schedule is at its end: give more steps, or a new one (--reset-schedule)")
    else:
        lines.append("  rate    go on with the schedule as it stands")
    tokens = _TOKENS_PER_PARAMETER * plan.large.num_parameters
    if plan.large.spec.objective in ("causal", "masked", "denoising"):  # the law knows of no images or sound
        lines.append(
            f"  tokens  {amount(tokens)} are {_TOKENS_PER_PARAMETER} per parameter; most of what a growth saves, it saves before"
        )
    if plan.growth.layers.grows:
        new = len({plan.large.parameters[name].layer for name in plan.new_parameters})
        lines.append(
            f"  freeze  new layers: {new}; `--list-new` names their parameters, to train them alone at first"
        )
    return tuple(lines)


def _opened(model: Model, out: str) -> str:
    """The call that opens a folder as a live model, by its own class: `AutoModel` would leave the head out."""
    if model.spec.library == "timm":
        return f"outgrow.TrainingState.from_pretrained({out!r}).to_model()"
    return f"transformers.{model.class_name}.from_pretrained({out!r})"


def _moments(plan: GrowthPlan, state: TrainingState, format: str) -> str:
    """What becomes of the optimizer's moments."""
    if format == "hub":
        return "Moments: none, the format hub is the model alone."
    if state.unread and plan.moments == "reset":
        return f"Moments: begin anew; those in {state.unread[0].file} stay behind."
    if not has_moments(state.source):
        return "Moments: none, " + (
            "the source has no optimizer's state." if state.optimizer is None else "the optimizer keeps none."
        )
    how = {
        "transport": "transported by the exact law" if plan.keeps_gradient_law else "transported by the law",
        "reset": "begin anew",
    }
    return f"Moments: {how.get(plan.moments, plan.moments)}."


def _cautions(large: Model, folder: Path) -> tuple[str, ...]:
    """What stops no growth, and surprises later: a tokenizer that cannot be read, or that is ahead of the model."""
    rows = large.sizes.get("vocab")
    if rows is None or not (folder / "tokenizer.json").is_file():
        return ()
    from outgrow.data.tokenizer import open_tokenizer

    try:
        tokens = open_tokenizer(folder).vocab_size
    except ConfigError as error:
        return (f"tokenizer.json is carried as it is: {error}",)
    if tokens <= rows:
        return ()
    ahead = f"tokenizer.json needs {tokens:,} rows of the vocabulary, and the grown model has {rows:,}"
    return (
        f"{ahead}: a text with one of the last tokens fails; --to {large.spec.axes['vocab'].size}={tokens} gives rows to all",
    )


def _costs(plan: GrowthPlan, state: TrainingState, out: Path, *, probe: bool) -> GrowthCosts:
    parent = _existing(out)
    speed = writing_speed(parent) if probe else None
    return growth_costs(plan, state, bytes_per_second=speed, free_bytes=shutil.disk_usage(parent).free)


def _existing(out: Path) -> Path:
    """The nearest folder above a destination that is there."""
    return next(path for path in out.absolute().parents if path.is_dir())


def _print_plan(console: Console, plan: GrowthPlan, costs: GrowthCosts) -> None:
    console.print(plan.findings().rich())
    for note in plan.notes():
        console.print(note, markup=False)
    small, large = costs.parameters
    console.print(
        f"{amount(small)} → {amount(large)} parameters; {amount(costs.output_bytes)}B to write, "
        f"{amount(costs.free_bytes)}B free{'' if costs.output_bytes < costs.free_bytes else ', TOO FEW'}; memory about {amount(costs.memory_bytes)}B above Python's own "
        f"and {amount(costs.mapped_bytes)}B of mapped files"
        + ("" if costs.seconds is None else f"; about {duration(costs.seconds)}")
        + "."
    )
