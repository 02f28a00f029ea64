"""`outgrow learn --method lesa`: layers predicted from their neighbours, without data, then grown like any operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.algebra.slots import Moments
from outgrow.commands.learn import check_result, grow_and_write, refuse_options
from outgrow.commands.writing import read_state
from outgrow.errors import ConfigError
from outgrow.learning.lesa import learn_lesa, lesa_form
from outgrow.run.learn_options import LesaOptions
from outgrow.store.config_file import load_config

if TYPE_CHECKING:
    from rich.console import Console


def lesa_command(
    checkpoint: Path,
    out: Path,
    to: Mapping[str, int],
    options: LesaOptions,
    *,
    unused: Mapping[str, Any],
    moments: Moments,
    keep: Path | None,
    overwrite: bool,
    dry_run: bool,
    console: Console,
) -> dict[str, Any]:
    """Predict, save the operator, grow; returns plain data. `unused` are options of other methods (None: not given)."""
    if unused.get("--data") is not None:
        raise ConfigError(
            "LESA learns from the model's own layers and reads no data",
            got=f"--data {unused['--data']}",
            fix="leave out --data",
        )
    refuse_options("lesa", unused)
    form = lesa_form(load_config(checkpoint), to, options)
    check_result(out, keep, moments, asdict(options), overwrite=overwrite or dry_run)
    new = form.large.layers - form.small.layers
    console.print(
        f"lesa: {new} new layers between {form.small.layers}, each matrix predicted from its two neighbours; "
        f"{options.steps} steps for each of {len(form.patterns)} kinds of parameters, no data."
    )
    summary: dict[str, Any] = {"method": "lesa", "new_layers": new, "output": str(out)}
    if dry_run:
        return summary
    state = read_state(checkpoint, console)
    fitted, found = learn_lesa(state, to, options)
    console.print(
        f"Squared error of old layers, predicted from their neighbours: {found.error:.4f} of their size; "
        f"of the neighbours' mean: {found.error_of_mean:.4f}."
    )
    grow_and_write(fitted, state, out, keep, moments=moments, overwrite=overwrite)
    console.print(f"Written: {out}" + ("" if keep is None else f"; operator: {keep}"), soft_wrap=True)
    return {**summary, "error": found.error, "error_of_mean": found.error_of_mean}
