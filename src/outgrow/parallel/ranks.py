"""The processes of a run and the few words between them. One process is the case of one rank: no group, no words.

What they say is numbers and JSON. An error of one rank ends all of them, and is told once (`process.speaks`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from outgrow.errors import ConfigError, OutgrowError
from outgrow.parallel.process import ElsewhereError, check_launch, launched
from outgrow.store.libraries import versions

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

TIMEOUT_SECONDS = 600.0
"""Longest wait for another rank; `OUTGROW_TIMEOUT` (seconds) changes it."""
_LONG = timedelta(hours=24)
"""For one rank's long work, as training a tokenizer, while the others wait."""
_GRACE_SECONDS = 5.0
"""Between the first rank that waited in vain and the last one that does."""


class LostRankError(OutgrowError):
    """A rank does not answer any more."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """This process among `world` of them."""

    rank: int = 0
    world: int = 1
    store: Store | None = None
    waiting: ProcessGroup | None = None
    """For long work on one rank."""
    saving: ProcessGroup | None = None
    """For checkpoints that are written while training goes on: a group must not be shared between threads."""

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.world == 1

    @property
    def leads(self) -> bool:
        """Whether this is the rank that talks, and writes what is written once."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place, of a tensor in the processor's memory."""
        if not self.alone:
            torch.distributed.all_reduce(values)
        return values

    def any_of(self, number: int | None) -> int | None:
        """The largest number that a rank has; None where none has one."""
        if self.alone:
            return number
        found = torch.tensor([number or 0])
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return int(found) or None

    def gather(self, value: Any, group: ProcessGroup | None = None) -> list[Any]:
        """Every rank's JSON value, by rank."""
        if self.alone:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        torch.distributed.all_gather(lengths, torch.tensor([len(text)]), group=group)
        padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
        padded[: len(text)] = text
        texts = [torch.empty_like(padded) for _ in range(self.world)]
        torch.distributed.all_gather(texts, padded, group=group)
        return [
            json.loads(one[: int(size)].numpy().tobytes()) for one, size in zip(texts, lengths, strict=True)
        ]

    def together(self, work: Callable[[], T], group: ProcessGroup | None = None) -> T:
        """Every rank's own result of `work`; an error on any rank is one on all of them."""
        value, failed = _tried(work)
        errors = self.gather(None if failed is None else str(failed), group)
        if failed is not None:
            raise failed
        _raise_elsewhere(errors)
        assert value is not None or failed is None
        return value  # type: ignore[return-value]

    def first(self, work: Callable[[], T]) -> T:
        """What rank 0's `work` came to (JSON), on every rank; the others wait, however long it takes."""
        if self.alone:
            return work()
        value, failed = _tried(work) if self.leads else (None, None)
        told = self.gather(
            [value if failed is None else None, None if failed is None else str(failed)], self.waiting
        )
        if failed is not None:
            raise failed
        _raise_elsewhere([error for _, error in told])
        result: T = told[0][0]
        return result

    def in_turn(self, work: Callable[[], T]) -> T:
        """Every rank's own result of `work`, rank 0 before the others, which find what it left (caches, files)."""
        if self.alone:
            return work()
        value, failed = _tried(work) if self.leads else (None, None)
        _raise_first(self.gather(None if failed is None else str(failed), self.waiting), failed)
        if not self.leads:
            value, failed = _tried(work)
        _raise_first(self.gather(None if failed is None else str(failed), self.waiting), failed)
        return value  # type: ignore[return-value]

    def agree(self, what: str, value: Any) -> None:
        """Raise ConfigError, on every rank, unless all have the same JSON value."""
        found = self.gather(json.dumps(value, sort_keys=True, default=str))
        for rank, one in enumerate(found):
            if one != found[0]:
                ours, theirs = _difference(json.loads(found[0]), json.loads(one))
                raise ConfigError(
                    f"{what} differs between the processes",
                    got=f"rank 0: {ours}; rank {rank}: {theirs}",
                    expected="the same on every host",
                    fix="give every host the same files, versions and command",
                )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A rank that does not answer inside, because it died or hangs, becomes a LostRankError that names it."""
        if self.alone:
            yield
            return
        try:
            yield
        except RuntimeError as error:
            if not _is_about_a_peer(error):
                raise
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> LostRankError:
        """Ranks that wait say so in the store: one that does not is the one that is waited for."""
        assert self.store is not None
        self.store.set(f"outgrow/waits/{self.rank}", "1")
        until = time.monotonic() + _GRACE_SECONDS
        missing = [rank for rank in range(self.world) if rank != self.rank]
        while missing and time.monotonic() < until:
            missing = [rank for rank in missing if not self.store.check([f"outgrow/waits/{rank}"])]
            if len(missing) > 1:
                time.sleep(0.1)
            else:
                time.sleep(0.5)
        names = ", ".join(str(rank) for rank in missing)
        return LostRankError(
            f"rank {names} does not answer" if missing else "the ranks lost each other",
            got=str(error).splitlines()[0][:200],
            fix="see what its host says; start the same command again: it goes on from the last checkpoint",
        )


ALONE = Ranks()


def start_ranks(device: str = "cpu") -> Ranks:
    """The ranks that the launcher's variables name (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), or this process alone.

    Raises ConfigError where they have other versions of a library, LostRankError where they do not meet.
    """
    if not launched():
        return ALONE
    check_launch()
    try:
        ranks = _met(device)
        ranks.agree("the version of a library", versions())
    except RuntimeError as error:
        if not _is_about_a_peer(error):
            raise
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        taken = "EADDRINUSE" in str(error)
        raise LostRankError(
            f"another program listens on {address}" if taken else f"the ranks do not meet at {address}",
            got=str(error).splitlines()[0][:200],
            fix="set another MASTER_PORT for all ranks (torchrun: --master-port)"
            if taken
            else f"start all {os.environ['WORLD_SIZE']} ranks, each with this MASTER_ADDR and MASTER_PORT, or start them with torchrun",
        ) from error
    return ranks


def _met(device: str) -> Ranks:
    """The ranks of this launch, once all of them are there."""
    import torch.distributed as dist
    from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    wait = timedelta(seconds=float(os.environ.get("OUTGROW_TIMEOUT", TIMEOUT_SECONDS)))
    store, rank, world = next(rendezvous("env://", timeout=wait))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=PrefixStore("outgrow", store),
        rank=rank,
        world_size=world,
        timeout=wait,
    )
    waiting = dist.new_group(backend="gloo", timeout=_LONG)
    saving = dist.new_group(backend="gloo", timeout=_LONG)
    return Ranks(rank, world, store, waiting, saving)


def _tried(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # any: the others must hear of it before it goes on
        return None, error


def _raise_first(errors: list[str | None], own: Exception | None) -> None:
    if own is not None:
        raise own
    _raise_elsewhere(errors)


def _raise_elsewhere(errors: list[str | None]) -> None:
    for rank, error in enumerate(errors):
        if error is not None:
            raise ElsewhereError(f"rank {rank}: {error}")


def _is_about_a_peer(error: RuntimeError) -> bool:
    """gloo raises plain RuntimeErrors, NCCL and the store errors of their own."""
    words = str(error).lower()
    known = isinstance(error, torch.distributed.DistError)
    return known or "gloo" in words or "connection" in words or "timed out" in words


def _difference(first: Any, other: Any) -> tuple[Any, Any]:
    """The first place where two JSON values differ."""
    if isinstance(first, dict) and isinstance(other, dict):
        for key in sorted(first.keys() | other.keys()):
            if first.get(key) != other.get(key):
                ours, theirs = _difference(first.get(key), other.get(key))
                return f"{key} {ours}", f"{key} {theirs}"
    return first, other
