"""Checkpoints that several ranks write together, each its own shards, while training may go on.

    begin -> every rank writes its parts (torch.distributed.checkpoint) -> publish: manifest, then what the caller does

A folder without its manifest does not count, so a kill at any moment leaves the checkpoint before it.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from outgrow.errors import CheckpointError
from outgrow.files.atomic import sync_tree
from outgrow.parallel.gathered import GatheredSource
from outgrow.parallel.ranks import Ranks
from outgrow.state.training_state import TrainingState
from outgrow.store import native
from outgrow.store.config_file import config_text
from outgrow.store.source import MemorySource


@dataclass(frozen=True)
class _Pending:
    state: TrainingState
    folder: Path
    done: Future[Any] | None
    then: Callable[[], None]


class ShardedSaves:
    """The saves of a run; at most one is under way."""

    def __init__(self, ranks: Ranks, asynchronous: bool) -> None:
        self._ranks, self._asynchronous = ranks, asynchronous
        self._pending: _Pending | None = None

    def begin(self, state: TrainingState, folder: Path, then: Callable[[], None]) -> None:
        """Write a live state; returns when it may be changed again. Rank 0 does `then` once the folder is whole."""
        from torch.distributed.checkpoint import filesystem, state_dict_saver

        assert self._pending is None, "publish the save before"
        self._ranks.first(lambda: _make_way(folder))
        writer, tensors = filesystem.FileSystemWriter(folder), _tensors(state)
        done: Any = None  # a Future, of a kind that torch may choose
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about its own defaults
            try:
                if self._asynchronous:
                    done = state_dict_saver.async_save(
                        tensors, storage_writer=writer, process_group=self._ranks.saving
                    )
                else:
                    state_dict_saver.save(tensors, storage_writer=writer)
            except CheckpointException as error:
                raise _failed(folder, error) from error
        self._pending = _Pending(state, folder, done, then)

    def publish(self, *, wait: bool) -> None:
        """Finish the save that is under way if it is written, or, with `wait`, as soon as it is."""
        pending = self._pending
        if pending is None or not (wait or pending.done is None or pending.done.done()):
            return
        try:
            if pending.done is not None:
                pending.done.result()
        except CheckpointException as error:
            raise _failed(pending.folder, error) from error
        self._pending = None
        if self._ranks.leads:
            _seal(pending.folder, pending.state)
            pending.then()


def _make_way(folder: Path) -> None:
    """An earlier, killed process may have left a part of this save."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _seal(folder: Path, state: TrainingState) -> None:
    """What belongs beside the tensors, the manifest last, and all of it on the disk."""
    (folder / "config.json").write_text(config_text(state.config), encoding="utf-8")
    for asset in state.assets:
        asset.write(folder)
    native.write_native_beside(folder, state, int(state.records["run"]["step"]), {})
    sync_tree(folder)


def _tensors(state: TrainingState) -> dict[str, Tensor]:
    assert isinstance(state.source, GatheredSource | MemorySource), "a live state"
    found = {f"model.{name}": value for name, value in state.source.tensors["weight"].items()}
    for slot, tensors in state.source.tensors.items():
        if slot != "weight":
            found |= {f"optimizer.state.{name}.{slot}": value for name, value in tensors.items()}
    return found


def _failed(folder: Path, error: Any) -> CheckpointError:
    ranks = {rank: str(failure[0]) for rank, failure in error.failures.items()}
    first = min(ranks)
    return CheckpointError(
        f"rank {first} cannot write {folder}",
        got=ranks[first].splitlines()[0],
        fix="free some space or mend the disk; start the same command again: it goes on from the checkpoint before",
    )
