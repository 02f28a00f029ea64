"""`outgrow grow`: what the growth keeps and costs, then the grown state, streamed from file to file."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from outgrow import __version__
from outgrow.commands.writing import read_state, writing_speed
from outgrow.engine.progress import bytes_progress
from outgrow.errors import ConfigError
from outgrow.files.atomic import check_destination
from outgrow.growth.plan import GrowthPlan
from outgrow.growth.rank_costs import Placement, rank_costs
from outgrow.methods.learned.fitted import FittedOperator
from outgrow.models.conversion import Conversion
from outgrow.parallel.ranks import Ranks
from outgrow.report.explain import costs
from outgrow.report.files import file_lines
from outgrow.state.converting import converted
from outgrow.state.growing import apply
from outgrow.state.grown_view import GrownView
from outgrow.state.rescheduling import rescheduled
from outgrow.state.shared_statistics import share_statistics
from outgrow.state.training_state import TrainingState
from outgrow.store.contents import has_moments
from outgrow.store.inventory import fates
from outgrow.store.layouts import check_writable
from outgrow.text.numbers import amount, duration


def grow_command(
    checkpoint: Path,
    out: Path,
    plan: GrowthPlan,
    fitted: FittedOperator | None,
    conversion: Conversion | None,
    *,
    format: str,
    learning_rate: float | None,
    reset_schedule: bool,
    overwrite: bool,
    dry_run: bool,
    allow_nonfinite: bool,
    console: Console,
    ranks: Ranks,
) -> dict[str, Any]:
    """Show the plan, and grow by it; returns plain data. All that is cheap to refuse is, before any tensor is read.

    Started by torchrun, every process calls this, computes and writes its share, and rank 0 talks.
    """
    check_destination(out, overwrite=overwrite)
    ranks.agree("the growth", [__version__, plan.describe(), str(out), format])
    state = read_state(
        checkpoint, console, allow_nonfinite=allow_nonfinite, headers_only=dry_run, ranks=ranks
    )
    if conversion is not None:
        state = converted(state, conversion, moments=plan.moments, seed=plan.growth.seed)
    grown = rescheduled(
        apply(plan, state, operator=fitted), learning_rate=learning_rate, reset_schedule=reset_schedule
    )
    check_writable(grown, format, ranks)  # type: ignore[arg-type]
    found = fates(grown.files, format, moments=format != "hub" and has_moments(grown.source))
    summary = {
        **plan.describe(),
        "costs": _costs(plan, state, out, probe=dry_run),
        "files": found,
        "output": str(out),
    }
    _print_plan(console, plan, summary["costs"])
    console.print(_moments(plan, state, format), markup=False)
    for line in file_lines(checkpoint, found):
        console.print(line, markup=False, soft_wrap=True)
    if not dry_run:
        assert isinstance(grown.source, GrownView)
        share_statistics(grown.source, ranks)
        with bytes_progress("writing", show=not console.quiet) as progress:
            grown.save_pretrained(out, format=format, overwrite=overwrite, progress=progress, ranks=ranks)  # type: ignore[arg-type]
    for line in what_next(plan, out, format):
        console.print(line, markup=False, soft_wrap=True)
    if not dry_run:
        proof = f"   (prove it: {shlex.join(['outgrow', 'verify', str(checkpoint), str(out)])})"
        hint = "" if checkpoint.resolve() == out.resolve() else proof
        console.print(f"Written: {out}{hint}", soft_wrap=True)
    return summary


def plan_ranks(plan: GrowthPlan, ranks: int, console: Console) -> dict[str, Any]:
    """What the growth would cost each of so many processes, from the config alone: no tensor has to be there.

    Weights and AdamW's moments, in float32.
    """
    if ranks < 1:
        raise ConfigError("--ranks is a number of processes", got=ranks, expected="1 or more")
    slots = ("weight",) if plan.moments == "reset" else ("weight", "exp_avg", "exp_avg_sq")
    found: dict[str, Any] = {}
    for name, placement in _PLACEMENTS.items():
        cost = rank_costs(plan, ranks, placement, slots=slots).describe()
        found[placement] = cost
        most = cost["largest_rank"]
        console.print(
            f"{name}: {ranks:,} ranks read {amount(cost['bytes_read'])}B and write {amount(cost['bytes_written'])}B, "
            f"{cost['amplification']:.2f} bytes for one that is needed; the largest, rank {most['rank']}, reads "
            f"{amount(most['bytes_read'])}B and writes {amount(most['bytes_written'])}B; "
            f"memory at most {amount(cost['memory_bytes'])}B a rank",
            markup=False,
            soft_wrap=True,
        )
    return {**plan.describe(), "ranks": found}


_PLACEMENTS: Mapping[str, Placement] = {"file to file": "files", "into FSDP2 shards": "shards"}


_OPENED: Mapping[str, str] = {
    "native": "`from: {out}` in a run.yaml of `outgrow train`, or AutoModel....from_pretrained({out!r})",
    "trainer": "Trainer(model=AutoModel....from_pretrained({out!r}), callbacks=[outgrow.OwnArguments()], ...)"
    ".train(resume_from_checkpoint={out!r})",
    "hub": "AutoModel....from_pretrained({out!r}); the optimizer begins anew",
}
_TOKENS_PER_PARAMETER = 20
"""Where Chinchilla's law ends a compute-optimal training (arXiv 2203.15556)."""


def what_next(plan: GrowthPlan, out: Path, format: str) -> tuple[str, ...]:
    """What to do with the grown state: how it goes on, at which rate, for how long, what may be frozen."""
    lines = ["What now:"]
    if format in _OPENED:
        lines.append(f"  open    {_OPENED[format].format(out=str(out))}")
    lines.append(
        "  rate    go on with the schedule as it stands"
        if plan.moments != "reset"
        else "  rate    go on with the schedule, after a short warm-up: the moments begin anew"
    )
    tokens = _TOKENS_PER_PARAMETER * plan.large.num_parameters
    lines.append(
        f"  tokens  {amount(tokens)} are {_TOKENS_PER_PARAMETER} per parameter; most of what a growth saves, it saves before"
    )
    if plan.growth.layers.grows:
        new = len({plan.large.parameters[name].layer for name in plan.new_parameters})
        lines.append(
            f"  freeze  new layers: {new}; `--list-new` names their parameters, to train them alone at first"
        )
    return tuple(lines)


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


def _costs(plan: GrowthPlan, state: TrainingState, out: Path, *, probe: bool) -> dict[str, Any]:
    parent = next(path for path in (out.absolute().parent, *out.absolute().parents) if path.is_dir())
    speed = writing_speed(parent) if probe else None
    return dict(costs(plan, state, bytes_per_second=speed, free_bytes=shutil.disk_usage(parent).free))


def _print_plan(console: Console, plan: GrowthPlan, cost: dict[str, Any]) -> None:
    console.print(plan.findings().rich())
    for note in plan.notes():
        console.print(note, markup=False)
    small, large = cost["parameters"]
    console.print(
        f"{amount(small)} → {amount(large)} parameters; {amount(cost['output_bytes'])}B to write, "
        f"{amount(cost['free_bytes'])}B free; memory about {amount(cost['memory_bytes'])}B above Python's own"
        + ("" if cost["seconds"] is None else f"; about {duration(cost['seconds'])}")
        + "."
    )
