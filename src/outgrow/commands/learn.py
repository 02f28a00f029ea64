"""`outgrow learn`, without the command line: fit an operator, grow by it, and show how the fit went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from outgrow.algebra.slots import Moments
from outgrow.commands.writing import read_state
from outgrow.data.learn_data import learn_data
from outgrow.engine.progress import make_progress
from outgrow.engine.step import Device
from outgrow.errors import CheckpointError, ConfigError
from outgrow.files.atomic import check_destination
from outgrow.files.leftovers import clear_leftovers, held_folder
from outgrow.learning.learn import begin, fit_operator
from outgrow.methods.learned.fitted import FittedOperator
from outgrow.models.architecture import resolve
from outgrow.report.fit import draw_fit, fit_table
from outgrow.report.plot import check_picture
from outgrow.run.learn_options import LENGTH, SEQUENCES, LearnOptions
from outgrow.state.asked import plan_fitted
from outgrow.state.growing import apply
from outgrow.state.operator_file import FILE, digest, load_operator, save_operator
from outgrow.state.training_state import TrainingState
from outgrow.store.config_file import load_config
from outgrow.text.numbers import amount

if TYPE_CHECKING:
    from rich.console import Console


def learn_command(
    checkpoint: Path,
    out: Path,
    to: Mapping[str, int],
    source: str,
    options: LearnOptions,
    *,
    sequences: int = SEQUENCES,
    length: int = LENGTH,
    moments: Moments,
    device: str = "cpu",
    keep: Path | None,
    plot: Path | None,
    overwrite: bool,
    dry_run: bool,
    console: Console,
) -> dict[str, Any]:
    """Fit, save the operator, grow; returns plain data. Everything that can be refused is, before anything is read."""
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"unknown device '{device}'", expected="cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch sees no cuda device here", fix="use --device cpu")
    if plot is not None:
        check_picture(plot)
    check_result(out, keep, moments, options.record, overwrite=overwrite or dry_run)
    config = load_config(checkpoint)
    form, _, _ = begin(resolve(config), to, options)
    of_images = form.small.spec.objective == "image"
    free = sum(_count(shape) for shape in form.shapes().values())
    console.print(
        f"{options.method} from {options.start}: {amount(form.small.num_parameters)} → "
        f"{amount(form.large.num_parameters)} parameters, {amount(free)} of them free in the fit; "
        f"{options.steps} steps of {sequences} {'images' if of_images else f'x {length} tokens'}."
    )
    summary = {"method": options.method, "start": options.start, "free": free, "output": str(out)}
    if dry_run:
        return summary
    state = read_state(checkpoint, console)
    data = learn_data(config, checkpoint, source, sequences=sequences, length=length, seed=options.seed)
    console.print(f"Data: {data.data.summary}.")
    with make_progress(not console.quiet) as progress:
        fitted, fit = fit_operator(
            state,
            to,
            data.batch,
            data.evaluation(),
            options,
            data=data.record,
            device=Device(device, False),
            progress=progress,
        )
    console.print(fit_table(fit, options))
    grow_and_write(fitted, state, out, keep, moments=moments, overwrite=overwrite)
    if plot is not None:
        draw_fit({options.start: fit}, plot, f"{options.method}: {_sizes(fitted)}")
    console.print(f"Written: {out}" + ("" if keep is None else f"; operator: {keep}"), soft_wrap=True)
    told = ("loss_small", "loss_start", "loss_end", "flops", "seconds")
    return {**summary, **{name: getattr(fit, name) for name in told}, "losses": list(fit.losses)}


def check_result(
    out: Path, keep: Path | None, moments: str, fit: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Before any fit: the moments have a name, and both folders may be written.

    An operator that was fitted in the same way, without the state that it grows, is what a killed start left: it stays.
    """
    if moments not in get_args(Moments):
        raise ConfigError(f"unknown moments '{moments}'", expected=", ".join(get_args(Moments)))
    if keep is not None and keep.resolve() == out.resolve():
        raise ConfigError("the operator and the grown model cannot share a folder", got=out)
    clear_leftovers(out.parent, _scratch(out).name)
    check_destination(out, overwrite=overwrite)
    if keep is None:
        return
    if (
        overwrite
        or out.exists()
        or not (keep / FILE).is_file()
        or load_operator(keep).record.get("fit") != fit
    ):
        check_destination(keep, overwrite=overwrite)


def grow_and_write(
    fitted: FittedOperator,
    state: TrainingState,
    out: Path,
    keep: Path | None,
    *,
    moments: Moments,
    overwrite: bool,
) -> None:
    """Save the operator, for good or for now, and write the state that it grows."""
    place = _scratch(out)
    place.parent.mkdir(parents=True, exist_ok=True)
    with held_folder(place) as temporary:
        if keep is not None and keep.exists() and not overwrite:
            saved = _kept(keep, fitted)
        else:
            saved = save_operator(
                fitted, keep or temporary / "operator", overwrite=overwrite and keep is not None
            )
        plan = plan_fitted(state.config, saved, moments=moments)
        apply(plan, state, operator=saved).save_pretrained(out, overwrite=overwrite)


def _scratch(out: Path) -> Path:
    """Where an operator lies that is not kept."""
    return out.with_name(f"{out.name}.operator")


def _kept(keep: Path, fitted: FittedOperator) -> FittedOperator:
    """The operator that a killed start of the same command saved before it could grow by it."""
    kept = load_operator(keep)
    if kept.digest != digest(fitted.values):
        raise CheckpointError(f"{keep} holds another operator", fix="choose another folder, or --overwrite")
    return kept


def refuse_options(method: str, given: Mapping[str, Any]) -> None:
    """Raise ConfigError for command-line options that a method has no use for; None is one that was not given."""
    found = [option for option, value in given.items() if value is not None]
    if found:
        raise ConfigError(
            f"--method {method} has no use for {', '.join(found)}",
            fix="leave out what it does not use",
        )


def _sizes(fitted: FittedOperator) -> str:
    return ", ".join(f"{name} {size}" for name, size in fitted.to.items())


def _count(shape: Sequence[int]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total
