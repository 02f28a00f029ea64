"""`outgrow learn`: fit an operator, grow by it, and show how the fit went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from outgrow.commands.keeping import check_result, grow_and_write, needed, written
from outgrow.commands.learn_lesa import LesaLearned, learn_by_lesa
from outgrow.commands.options import LearnCall, asked_sizes
from outgrow.commands.outcome import Outcome
from outgrow.commands.writing import read_state
from outgrow.data.learn_data import learn_source
from outgrow.engine.progress import make_progress
from outgrow.engine.step import Device
from outgrow.errors import ConfigError
from outgrow.learning.fit import Fit
from outgrow.learning.fit_memory import fit_memory
from outgrow.learning.learn import begin, fit_operator
from outgrow.methods.learned.fitted import FittedOperator
from outgrow.models.architecture import longest_sequence, resolve
from outgrow.report.explain import slot_bytes
from outgrow.report.fit import draw_fit, fit_table
from outgrow.report.plot import check_picture
from outgrow.run.learn_options import LENGTH, SEQUENCES, LearnOptions, LesaOptions
from outgrow.store.config_file import load_config
from outgrow.store.hub import local_folder
from outgrow.text.numbers import amount

if TYPE_CHECKING:
    from rich.console import Console

_FITTED = (
    *("data", "learning_rate", "warmup", "dropout", "plot", "start", "width", "depth"),
    *("rank", "hidden", "steps", "sequences", "length", "device"),
)
"""Options of a fit; each has a default of its own where it is used, and some methods have no use for it."""


@dataclass(frozen=True)
class LearnedOnData(Outcome):
    """A fit on data and what it came to; in a dry run the fit is None."""

    call: LearnCall
    options: LearnOptions
    free: int
    """Numbers that are fitted."""
    memory_bytes: int
    """Of the fit, above Python's own,"""
    mapped_bytes: int
    """and pages of mapped files, which the system takes back where it needs them."""
    fit: Fit | None

    def show(self, console: Console) -> None:
        """Where both are; the fit was shown before they were written."""
        if self.fit is not None:
            console.print(written(self.call), soft_wrap=True)

    def to_json(self) -> dict[str, Any]:
        """The fit in numbers."""
        told = {
            "method": self.options.method,
            "start": self.options.start,
            "free": self.free,
            "memory_bytes": self.memory_bytes,
            "mapped_bytes": self.mapped_bytes,
            "output": str(self.call.out),
        }
        if self.fit is None:
            return told
        names = ("loss_small", "loss_start", "loss_end", "flops", "seconds")
        return {**told, **{name: getattr(self.fit, name) for name in names}, "losses": list(self.fit.losses)}


def run(call: LearnCall, console: Console) -> LearnedOnData | LesaLearned:
    """Fit, save the operator, grow. Everything that can be refused is, before anything is read."""
    given = {
        name: value for name in _FITTED if (value := getattr(call, name)) is not None and value is not False
    }
    if call.method != "lesa":
        return _learn_on_data(call, _settings(call, given), console)
    if call.data is not None:
        raise ConfigError(
            "LESA learns from the model's own layers and reads no data",
            got=f"--data {call.data}",
            fix="leave out --data",
        )
    own = {one.name: given.pop(one.name) for one in fields(LesaOptions) if one.name in given}
    _refuse("lesa", given)
    return learn_by_lesa(call, LesaOptions(seed=call.seed, **own), console)


def _settings(call: LearnCall, given: dict[str, Any]) -> LearnOptions:
    """What was given, as the settings of a fit on data."""
    start = call.start or LearnOptions.start
    unread = ("hidden", *LearnOptions(call.method, start).unread)
    _refuse(f"{call.method} --start {start}", [name for name in unread if name in given])
    if call.data is None:
        raise ConfigError(f"--method {call.method} is fitted to data", fix="give --data TEXT, or images.npz")
    if call.data.endswith(".npz"):
        _refuse(f"{call.method} on images", [name for name in ("length",) if name in given])
    own = {
        name: given[name] for name in ("steps", "width", "depth", "rank", "learning_rate") if name in given
    }
    return LearnOptions(
        call.method, start, warmup_steps=call.warmup, dropout=call.dropout, seed=call.seed, **own
    )


def _refuse(method: str, names: Iterable[str]) -> None:
    """Raise ConfigError for options that were given, and that a method has no use for."""
    flags = [f"--{name.replace('_', '-')}" for name in names]
    if flags:
        raise ConfigError(
            f"--method {method} has no use for {', '.join(flags)}", fix="leave out what it does not use"
        )


def _learn_on_data(call: LearnCall, options: LearnOptions, console: Console) -> LearnedOnData:
    assert call.data is not None
    to, device = asked_sizes(call.to), call.device or "cpu"
    sequences, length = call.sequences or SEQUENCES, call.length or LENGTH
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch sees no cuda device here", fix="use --device cpu")
    if call.plot is not None:
        check_picture(call.plot)
    check_result(call, options.record)
    config, folder = load_config(call.checkpoint), local_folder(call.checkpoint)
    form, values, _ = begin(resolve(config), to, options)
    found = learn_source(config, folder, call.data)
    of_images = form.small.spec.objective == "image"
    length = length if of_images else min(length, longest_sequence(config) or length)
    free = sum(_count(shape) for shape in form.shapes().values())
    console.print(
        f"{options.method} from {options.start}: {amount(form.small.num_parameters)} → "
        f"{amount(form.large.num_parameters)} parameters, {amount(free)} of them free in the fit; "
        f"{options.steps} steps of {sequences} {'images' if of_images else f'x {length} tokens'}."
    )
    state = read_state(call.checkpoint, console, headers_only=call.dry_run)
    memory = fit_memory(form, values, sequences=sequences, sequence_length=length)
    mapped = slot_bytes(state.source, "weight")
    console.print(needed(memory, mapped))
    if call.dry_run:
        return LearnedOnData(call, options, free, memory, mapped, None)
    data = found.read(sequences=sequences, length=length, seed=options.seed)
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
    grow_and_write(call, fitted, state)
    if call.plot is not None:
        draw_fit({options.start: fit}, call.plot, f"{options.method}: {_sizes(fitted)}")
    return LearnedOnData(call, options, free, memory, mapped, fit)


def _sizes(fitted: FittedOperator) -> str:
    return ", ".join(f"{name} {size}" for name, size in fitted.to.items())


def _count(shape: Sequence[int]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total
