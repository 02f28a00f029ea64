"""What `outgrow learn` leaves: the operator, if it is kept, and the state that it grows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outgrow.commands.options import LearnCall
from outgrow.errors import CheckpointError, ConfigError, TrainingError
from outgrow.files.atomic import check_destination
from outgrow.files.leftovers import clear_leftovers, held_folder
from outgrow.methods.learned.fitted import FittedOperator
from outgrow.state.asked import plan_fitted
from outgrow.state.growing import apply
from outgrow.state.operator_file import FILE, check_place, digest, load_operator, save_operator
from outgrow.state.training_state import TrainingState
from outgrow.store.check import row_blocks, unusable
from outgrow.store.writer import BLOCK_BYTES
from outgrow.text.numbers import amount


def check_result(call: LearnCall, fit: Mapping[str, Any]) -> None:
    """Before any fit: both folders may be written.

    An operator that was fitted in the same way, without the state that it grows, is what a killed start left: it stays.
    """
    out, keep, overwrite = call.out, call.save_operator, call.overwrite or call.dry_run
    if keep is not None:
        places = keep.resolve(), out.resolve()
        if any(one == other or one in other.parents for one, other in (places, places[::-1])):
            raise ConfigError(
                "the operator and the grown model cannot share a folder",
                got=f"{keep} and {out}",
                fix="choose two folders beside each other",
            )
    clear_leftovers(out.parent, _scratch(out).name)
    check_destination(out, overwrite=overwrite, sources=[call.checkpoint])
    if keep is None:
        return
    check_place(keep)
    if (
        overwrite
        or out.exists()
        or not (keep / FILE).is_file()
        or load_operator(keep).record.get("fit") != fit
    ):
        check_destination(keep, overwrite=overwrite, sources=[call.checkpoint])


def grow_and_write(call: LearnCall, fitted: FittedOperator, state: TrainingState) -> None:
    """Save the operator, for good or for now, and write the state that it grows."""
    _check_fits(apply(plan_fitted(state.config, fitted, moments="reset"), state))
    place, keep = _scratch(call.out), call.save_operator
    place.parent.mkdir(parents=True, exist_ok=True)
    with held_folder(place) as temporary:
        if keep is not None and keep.exists() and not call.overwrite:
            saved = _kept(keep, fitted)
        else:
            overwrite = call.overwrite and keep is not None
            saved = save_operator(fitted, keep or temporary / "operator", overwrite=overwrite)
        plan = plan_fitted(state.config, saved, moments=call.moments)
        apply(plan, state, operator=saved).save_pretrained(call.out, overwrite=call.overwrite)


def _check_fits(grown: TrainingState) -> None:
    """Raises TrainingError where a fitted weight is more than its dtype holds: a fit is in float32, a source may be in float16."""
    for name in grown.source.names("weight"):
        meta = grown.source.meta(name, "weight")
        for rows in row_blocks(meta, BLOCK_BYTES):
            if wrong := unusable(grown.source.read(name, "weight", rows), "weight"):
                raise TrainingError(
                    f"the fitted {name} holds {wrong}",
                    got=str(meta.dtype).removeprefix("torch."),
                    fix="choose a smaller --learning-rate, or give the source in float32",
                )


def needed(memory: int, mapped: int) -> str:
    """Bytes that a fit takes, in a line."""
    return f"Memory about {amount(memory)}B above Python's own and {amount(mapped)}B of mapped files."


def written(call: LearnCall) -> str:
    """Where both are, in a line."""
    return f"Written: {call.out}" + (
        "" if call.save_operator is None else f"; operator: {call.save_operator}"
    )


def _scratch(out: Path) -> Path:
    """Where an operator lies that is not kept."""
    return out.with_name(f"{out.name}.operator")


def _kept(keep: Path, fitted: FittedOperator) -> FittedOperator:
    """The operator that a killed start of the same command saved before it could grow by it."""
    kept = load_operator(keep)
    if kept.digest != digest(fitted.values):
        raise CheckpointError(f"{keep} holds another operator", fix="choose another folder, or --overwrite")
    return kept
