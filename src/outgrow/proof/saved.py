"""Is a saved state what its plan says? What is not, by name.

unlike(plan, before, large) = tensors of every slot, step counts and config fields that are not the grown ones,
                              and what the lineage says otherwise
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from outgrow.algebra.slots import MOMENTS
from outgrow.growth.plan import GrowthPlan
from outgrow.models.bounds import CHANCES
from outgrow.models.library import default_config
from outgrow.state.growing import apply
from outgrow.state.training_state import TrainingState
from outgrow.store.check import row_blocks
from outgrow.store.lineage import Lineage
from outgrow.store.writer import BLOCK_BYTES

_FREE = ("_token_id", "_coef", "initializer_range", "initializer_factor", *CHANCES)
"""How the names of fields end that change how a model is trained or read, and not what it computes."""
_NAMES = frozenset(
    {
        "architectures",
        "dtype",
        "id2label",
        "label2id",
        "problem_type",
        "torch_dtype",
        "transformers_version",
        "_name_or_path",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "use_cache",
        "chunk_size_feed_forward",
        "gradient_checkpointing",
        "pretraining_tp",
    }
)
"""Fields that say what a model is called, holds or gives back."""


def unlike(plan: GrowthPlan, before: TrainingState, large: TrainingState) -> tuple[str, ...]:
    """What of `large` is not what `plan` makes of `before`, as `weight of NAME`; empty where all is.

    Moments are compared where both states have some: a state may be exported without them. Options of the optimizer and
    dropout are the user's to change.
    """
    expected = apply(plan, before)
    return (
        *_unlike_tensors(expected, large, "weight"),
        *_unlike_moments(expected, before, large),
        *(f"{name} of config.json" for name in _unlike_fields(plan.config, _known(plan, large.config))),
        *(f"{name} of the lineage" for name in _unlike_lineage(plan, large.lineage)),
    )


def _unlike_moments(expected: TrainingState, before: TrainingState, large: TrainingState) -> Iterator[str]:
    given = [slot for slot in MOMENTS if large.source.names(slot)]
    if not given or not before.steps:
        return
    for slot in MOMENTS:
        if slot in given or expected.source.names(slot):
            yield from _unlike_tensors(expected, large, slot)
    if expected.steps != large.steps:
        yield "step counts of the optimizer"


def _unlike_tensors(expected: TrainingState, large: TrainingState, slot: str) -> Iterator[str]:
    """Tensors whose bits differ, or that one of both lacks; a few rows at a time."""
    wanted, found = (set(state.source.names(slot)) for state in (expected, large))
    for name in sorted(wanted | found):
        if name not in wanted or name not in found or not _equal(expected, large, name, slot):
            yield f"{slot} of {name}"


def _equal(expected: TrainingState, large: TrainingState, name: str, slot: str) -> bool:
    meta = expected.source.meta(name, slot)
    return meta.shape == large.source.meta(name, slot).shape and all(
        torch.equal(expected.source.read(name, slot, rows), large.source.read(name, slot, rows))
        for rows in row_blocks(meta, BLOCK_BYTES)
    )


def _known(plan: GrowthPlan, config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the notes that other programs leave in a config, which no class reads."""
    known = {*plan.config, *default_config(str(plan.config["model_type"]))}
    return {name: value for name, value in config.items() if name in known}


def _unlike_fields(expected: Mapping[str, Any], found: Mapping[str, Any], inside: str = "") -> Iterator[str]:
    """Fields of a config, and of those inside it, that make another function."""
    for name in sorted({*expected, *found}):
        here, there = expected.get(name), found.get(name)
        if here == there or name in _NAMES or name.endswith(_FREE):
            continue
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            yield from _unlike_fields(here, there, f"{inside}{name}.")
        else:
            yield f"{inside}{name}"


def _unlike_lineage(plan: GrowthPlan, lineage: Lineage) -> Iterator[str]:
    """What the entry of a growth tells people, and the plan does not say; and sizes that the growth before did not end at."""
    entry, told = lineage.last, plan.describe()
    if entry.conversion is not None:
        return
    for earlier in lineage.entries[-2:-1]:
        yield from (f"an earlier to.{name}" for name in _other(earlier.sizes[1], told["from"]))
    yield from (f"to.{name}" for name in _other(entry.sizes[1], told["to"]))
    yield from _other(entry.content, {name: told[name] for name in ("keeps_function", "keeps_gradient_law")})


def _other(said: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Names with two values; what is not said is not looked at."""
    return [name for name in here if name in said and said[name] != here[name]]
