"""`outgrow learn`, without the command line: fit an operator, grow by it, and show how the fit went."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from outgrow.api import apply, plan_fitted
from outgrow.architectures import resolve
from outgrow.errors import ConfigError
from outgrow.operators.fitted import FittedOperator
from outgrow.report.plot import COLORS, FAINT, STYLE, check_picture, quiet_axes, save_figure, smooth
from outgrow.report.text import amount, duration
from outgrow.slots import Moments
from outgrow.state import TrainingState
from outgrow.store.atomic import check_destination
from outgrow.store.models import load_config
from outgrow.store.operator_file import save_operator
from outgrow.train.engine import Device
from outgrow.train.fit import Fit
from outgrow.train.learn import LearnOptions, begin, learn
from outgrow.train.learn_data import learn_data
from outgrow.train.progress import make_progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def learn_command(
    checkpoint: Path,
    out: Path,
    to: Mapping[str, int],
    source: str,
    options: LearnOptions,
    *,
    sequences: int = 16,
    length: int = 256,
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
    check_result(out, keep, moments, overwrite=overwrite or dry_run)
    config = load_config(checkpoint)
    form, _, _ = begin(resolve(config), to, options)
    of_images = form.small.spec.objective == "image"
    free = sum(_count(shape) for shape in form.shapes().values())
    console.print(
        f"{options.method} from {options.start}: {amount(form.small.num_parameters)} → "
        f"{amount(form.large.num_parameters)} parameters, {amount(free)} of them free in the fit; "
        f"{options.fit.steps} steps of {sequences} {'images' if of_images else f'x {length} tokens'}."
    )
    summary = {"method": options.method, "start": options.start, "free": free, "output": str(out)}
    if dry_run:
        return summary
    state = TrainingState.from_pretrained(checkpoint)
    data = learn_data(config, checkpoint, source, sequences=sequences, length=length, seed=options.fit.seed)
    console.print(f"Data: {data.data.summary}.")
    with make_progress(not console.quiet) as progress:
        fitted, fit = learn(
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
    grow_by(fitted, state, out, keep, moments=moments, overwrite=overwrite)
    if plot is not None:
        draw_fit({options.start: fit}, plot, f"{options.method}: {_sizes(fitted)}")
    console.print(f"Written: {out}" + ("" if keep is None else f"; operator: {keep}"))
    told = ("loss_small", "loss_start", "loss_end", "flops", "seconds")
    return {**summary, **{name: getattr(fit, name) for name in told}, "losses": list(fit.losses)}


def check_result(out: Path, keep: Path | None, moments: str, *, overwrite: bool) -> None:
    """Before any fit: the moments have a name, and both folders may be written."""
    if moments not in get_args(Moments):
        raise ConfigError(f"unknown moments '{moments}'", expected=", ".join(get_args(Moments)))
    if keep is not None and keep.resolve() == out.resolve():
        raise ConfigError("the operator and the grown model cannot share a folder", got=out)
    for folder in filter(None, (out, keep)):
        check_destination(folder, overwrite=overwrite)


def grow_by(
    fitted: FittedOperator,
    state: TrainingState,
    out: Path,
    keep: Path | None,
    *,
    moments: Moments,
    overwrite: bool,
) -> None:
    """Save the operator, for good or for now, and write the state that it grows."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary) / "operator"
        saved = save_operator(fitted, folder, overwrite=overwrite and keep is not None)
        plan = plan_fitted(state.config, saved, moments=moments)
        apply(plan, state, operator=saved).save_pretrained(out, overwrite=overwrite)


def refuse_options(method: str, given: Mapping[str, Any]) -> None:
    """Raise ConfigError for command-line options that a method has no use for; None is one that was not given."""
    found = [option for option, value in given.items() if value is not None]
    if found:
        raise ConfigError(
            f"--method {method} has no use for {', '.join(found)}",
            fix="leave out what it does not use",
        )


def fit_table(fit: Fit, options: LearnOptions) -> Table:
    """The held-out loss before, at the start and after, and what the fit cost."""
    from rich.table import Table

    table = Table(title=f"fit of {options.method}, {options.fit.steps} steps", title_justify="left")
    for column in ("held-out loss", "nats per target"):
        table.add_column(column)
    table.add_row("small model", f"{fit.loss_small:.4f}")
    table.add_row(f"large model at the start ({options.start})", f"{fit.loss_start:.4f}")
    table.add_row("large model after the fit", f"{fit.loss_end:.4f}")
    table.add_row("cost", f"{amount(fit.flops)}FLOPs, {duration(fit.seconds)}")
    return table


def draw_fit(
    fits: Mapping[str, Fit], path: Path, title: str, *, against: Sequence[float] | None = None
) -> None:
    """Loss against the fit's steps, one line per start, with the small model's loss as a level.

    `against` are the small model's losses on the same batches: differences to them are drawn, without the batches' noise.
    """
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 4.6), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        level = 0.0 if against is not None else next(iter(fits.values())).loss_small
        for color, (name, fit) in zip(COLORS * 3, fits.items(), strict=False):
            held_out = np.array([fit.loss_start, fit.loss_end])
            losses = np.array(fit.losses)
            if against is not None:
                losses, held_out = losses - np.array(against), held_out - fit.loss_small
            axes.plot(losses, color=color, linewidth=0.9, alpha=0.3)
            axes.plot(smooth(losses), color=color, linewidth=1.8, label=name)
            axes.plot(
                [0, len(losses)],
                held_out,
                color=color,
                linestyle="none",
                marker="o",
                markersize=6,
                markeredgecolor="white",
            )
        axes.axhline(level, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)), label="small model")
        axes.plot([], [], color=FAINT, marker="o", linestyle="none", label="held out, before and after")
        axes.set_xlabel("steps of the fit")
        axes.set_ylabel("loss (nats per target)" + ("" if against is None else ", less the small model's"))
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=10)
        quiet_axes(axes)
        axes.legend(frameon=False, fontsize=9.5)
        save_figure(figure, path)


def _sizes(fitted: FittedOperator) -> str:
    return ", ".join(f"{name} {size}" for name, size in fitted.to.items())


def _count(shape: Sequence[int]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total
