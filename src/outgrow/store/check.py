"""Reading a whole state once before any work: is every number one to go on from, is every file as it was written?

A minimum and a maximum find NaN and infinity in one pass without a temporary: both let NaN through.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from os import cpu_count
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outgrow.algebra.slots import SLOTS
from outgrow.errors import CheckpointError
from outgrow.store.source import Rows, TensorMeta, TensorSource

if TYPE_CHECKING:
    from outgrow.parallel.ranks import Ranks

SCAN_BYTES = 32 << 20


def check_finite(source: TensorSource, *, block_bytes: int = SCAN_BYTES) -> None:
    """Raise a `CheckpointError` that names the first tensor with a NaN or an infinity; reads in row blocks."""
    scan(source, block_bytes=block_bytes)


def scan(
    source: TensorSource,
    *,
    finite: bool = True,
    checksums: bool = False,
    block_bytes: int = SCAN_BYTES,
    ranks: Ranks | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Mapping[tuple[str, str], int]:
    """Read everything once: check its numbers (`unusable`), and return the CRC-32 of each (slot, name) if asked.

    Of several `ranks`, each reads every so-manyth tensor, and all come to the same verdict. `progress` is called with the
    bytes that this process has read, and those in all.
    """
    keys = [(slot, name) for slot in SLOTS for name in source.names(slot)]
    total, done, lock = sum(source.meta(name, slot).bytes for slot, name in keys), 0, Lock()

    def tell(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            if progress is not None:
                progress(done, total)

    def look(key: tuple[str, str]) -> tuple[int, str]:
        slot, name = key
        crc, wrong = 0, ""
        for rows in row_blocks(source.meta(name, slot), block_bytes):
            block = source.read(name, slot, rows)
            if checksums:
                crc = zlib.crc32(as_bytes(block), crc)
            wrong = wrong or (unusable(block, slot) if finite else "")
            tell(block.numel() * block.dtype.itemsize)
        return crc, wrong

    def look_at(mine: list[tuple[str, str]]) -> Iterator[tuple[int, str]]:
        with ThreadPoolExecutor(max_workers=min(4, cpu_count() or 1)) as pool:
            for crc, wrong in pool.map(look, mine):
                yield crc, wrong
                if wrong:
                    pool.shutdown(cancel_futures=True)
                    return

    if ranks is None or ranks.alone:
        return _verdict(keys, look_at(keys))
    mine = keys[ranks.rank :: ranks.world]
    parts = ranks.gather(ranks.together(lambda: list(look_at(mine))))
    dealt = [
        part + [(0, "")] * (len(keys) - len(part)) for part in parts
    ]  # cut short where something was bad
    return _verdict(keys, (dealt[place % ranks.world][place // ranks.world] for place in range(len(keys))))


def _verdict(keys: list[tuple[str, str]], looks: Iterable[tuple[int, str]]) -> Mapping[tuple[str, str], int]:
    found = {}
    for (slot, name), (crc, wrong) in zip(keys, looks, strict=False):
        found[slot, name] = crc
        if wrong:
            what = name if slot == "weight" else f"{slot} of {name}"
            raise CheckpointError(
                f"{what} holds {wrong}",
                fix="use an earlier checkpoint, or allow it with allow_nonfinite=True (--allow-nonfinite)",
            )
    return found


def unusable(values: Tensor, slot: str) -> str:
    """What these numbers hold that no training goes on from, or nothing; second moments are means of squares.

    >>> unusable(torch.tensor([1.0, float("nan"), 2.0]), "weight")
    'NaN or infinity'
    >>> unusable(torch.tensor([-1.0, 2.0]), "exp_avg_sq"), unusable(torch.tensor([-1.0, 2.0]), "weight")
    ('negative numbers, whose square root is none', '')
    """
    if values.numel() == 0 or not values.is_floating_point():
        return ""
    if values.dtype.itemsize == 1:
        values = values.float()
    low, high = values.aminmax()
    if not (isfinite(low) and isfinite(high)):
        return "NaN or infinity"
    return "negative numbers, whose square root is none" if SLOTS[slot].power == 2 and low < 0 else ""


def row_blocks(meta: TensorMeta, block_bytes: int) -> Iterator[Rows]:
    """Slices of dimension 0 of about `block_bytes`, at least one row each; None for a scalar.

    >>> list(row_blocks(TensorMeta((5, 2), torch.float32), 16))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if not meta.shape:
        yield None
    elif meta.bytes:
        step = max(1, block_bytes * meta.shape[0] // meta.bytes)
        for start in range(0, meta.shape[0], step):
            yield slice(start, min(start + step, meta.shape[0]))


def as_bytes(block: Tensor) -> memoryview:
    """The bytes of a tensor in C order, shared with it where it is contiguous."""
    flat = block.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
