"""The streaming writer: any `TensorSource` to files, in row blocks, without ever holding a tensor whole.

Every name, shape and dtype is known before any number is, so file heads and offsets are planned first, space is
reserved, and blocks are written where they belong, in any order:

    offset(name, row) = offset(name) + row * bytes per row

Each of a few workers computes, checksums and writes one block after the other. Memory is a block or two per worker,
whatever the size, and a block that was just computed is still in the cache when it is written.
"""

from __future__ import annotations

import ctypes
import errno
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from outgrow.errors import CheckpointError
from outgrow.store.check import as_bytes, row_blocks
from outgrow.store.checksum import combine, combine_all
from outgrow.store.safetensors_file import header_bytes
from outgrow.store.source import Rows, TensorMeta, TensorSource

if TYPE_CHECKING:
    from outgrow.parallel.ranks import Ranks

Key = tuple[str, str]
"""(slot, name)"""
BytesProgress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

SHARD_BYTES = 5_000_000_000
BLOCK_BYTES = (
    4 << 20
)  # fits the cache that cores share; larger ones are read from memory again for checksum and disk
WORKERS = max(2, min(8, os.cpu_count() or 1))


@dataclass(frozen=True)
class FilePlan:
    """One file to be written: its first bytes, and where the bytes of each tensor go."""

    name: str
    size: int
    head: bytes
    offsets: Mapping[Key, int]
    keys: Mapping[Key, str] = field(default_factory=dict)
    """What the file calls each tensor."""


@dataclass(frozen=True)
class Job:
    """A tensor to be written: where it is read from, and its name in the file."""

    slot: str
    name: str
    key: str
    meta: TensorMeta


@dataclass(frozen=True)
class Block:
    """Rows of a tensor that are computed at once, and written to every tensor with these contents."""

    keys: tuple[Key, ...]
    rows: Rows
    targets: tuple[tuple[int, int], ...]
    """(file handle, offset) for each key."""
    size: int
    """In bytes."""


def plan_files(
    jobs: Sequence[Job],
    stem: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> tuple[FilePlan, ...]:
    """Shards of at most `shard_bytes` (a larger tensor gets its own), heads and offsets included."""
    shards: list[list[Job]] = [[]]
    size = 0
    for job in jobs:
        if shards[-1] and size + job.meta.bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(job)
        size += job.meta.bytes
    count = len(shards)
    plans = []
    for number, shard in enumerate(shards, start=1):
        ordered = sorted(
            shard, key=lambda job: -job.meta.dtype.itemsize
        )  # stable; keeps every tensor aligned
        head, offsets = header_bytes(
            [(job.key, job.meta) for job in ordered], {"format": "pt", **(metadata or {})}
        )
        name = f"{stem}.safetensors" if count == 1 else f"{stem}-{number:05d}-of-{count:05d}.safetensors"
        places = {(job.slot, job.name): offset for job, offset in zip(ordered, offsets, strict=True)}
        keys = {(job.slot, job.name): job.key for job in ordered}
        plans.append(FilePlan(name, len(head) + sum(job.meta.bytes for job in ordered), head, places, keys))
    return tuple(plans)


def index_json(plans: Sequence[FilePlan], parameters: int) -> dict[str, object]:
    """The index of a sharded set of files."""
    data = sum(plan.size - len(plan.head) for plan in plans)
    weight_map = {key: plan.name for plan in plans for key in plan.keys.values()}
    return {"metadata": {"total_parameters": parameters, "total_size": data}, "weight_map": weight_map}


def write_files(
    source: TensorSource,
    folder: Path,
    plans: Sequence[FilePlan],
    *,
    ranks: Ranks,
    block_bytes: int = BLOCK_BYTES,
    workers: int = WORKERS,
    progress: BytesProgress | None = None,
) -> dict[Key, int]:
    """Write the planned files into `folder` and sync them; returns the CRC-32 of each tensor.

    Every process writes its share of the blocks, a stretch of about as many bytes as the others'. The files are those
    of one process, bit for bit.
    """
    ranks.first(lambda: _prepare(folder, plans))
    with ExitStack() as stack:
        handles = ranks.together(lambda: [_opened(folder / plan.name, stack) for plan in plans])
        places = {
            key: (handle, offset)
            for handle, plan in zip(handles, plans, strict=True)
            for key, offset in plan.offsets.items()
        }
        blocks = list(blocks_of(source, places, block_bytes))
        share = shares([block.size * len(block.keys) for block in blocks], ranks.world)[ranks.rank]
        stack.enter_context(_one_compute_thread())
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=workers))

        def write() -> list[int]:
            try:
                found = _stream(source, blocks[share.start : share.stop], pool, workers, progress)
                list(pool.map(os.fsync, handles))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            return found

        parts = ranks.gather(ranks.together(write))
    checksums = dict.fromkeys(places, 0)
    for block, crc in zip(blocks, (crc for part in parts for crc in part), strict=True):
        for key in block.keys:
            checksums[key] = combine(checksums[key], crc, block.size)
    return checksums


def shares(sizes: Sequence[int], count: int) -> list[range]:
    """Numbers of blocks in `count` stretches of about equal bytes: a block belongs where its middle lies.

    >>> shares([1, 1, 1, 1, 4], 2)
    [range(0, 4), range(4, 5)]
    """
    total, done, ends = sum(sizes), 0, [0] * count
    for number, size in enumerate(sizes):
        mine = min(count - 1, (2 * done + size) * count // (2 * total)) if total else 0
        ends[mine] = number + 1
        done += size
    edges = [0]
    for end in ends:
        edges.append(max(edges[-1], end))
    return [range(first, last) for first, last in pairwise(edges)]


def _opened(path: Path, stack: ExitStack) -> int:
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{os.uname().nodename} does not see {path}, which another process has made",
            fix="write to a file system that all hosts share",
        ) from error
    stack.callback(os.close, handle)
    return handle


def _prepare(folder: Path, plans: Sequence[FilePlan]) -> None:
    """The files, their space and their first bytes: a full disk is found here, before anything is computed."""
    for plan in plans:
        handle = os.open(folder / plan.name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _reserve(handle, plan.size)
            write_all(handle, memoryview(plan.head), 0)
        finally:
            os.close(handle)


def file_checksum(plan: FilePlan, tensors: Mapping[Key, int], source: TensorSource) -> int:
    """The CRC-32 of a planned file from those of its tensors."""
    ordered = sorted(plan.offsets, key=lambda key: plan.offsets[key])
    parts = [(tensors[key], source.meta(key[1], key[0]).bytes) for key in ordered]
    return combine_all([(zlib.crc32(plan.head), len(plan.head)), *parts])


def blocks_of(
    source: TensorSource, places: Mapping[Key, tuple[int, int]], block_bytes: int
) -> Iterator[Block]:
    """Every block of the planned files, in the order in which tensors are read."""
    for slot in dict.fromkeys(slot for slot, _ in places):
        for group in source.groups(slot):
            keys = tuple((slot, name) for name in group if (slot, name) in places)
            if not keys:
                continue
            meta = source.meta(keys[0][1], slot)
            position = 0
            for rows in row_blocks(meta, block_bytes):
                count = 1 if not isinstance(rows, slice) else rows.stop - rows.start
                size = count * (meta.bytes // meta.shape[0] if meta.shape else meta.bytes)
                yield Block(
                    keys, rows, tuple((places[key][0], places[key][1] + position) for key in keys), size
                )
                position += size
            assert position == meta.bytes, f"{keys[0]}: blocks of {position} bytes, promised {meta.bytes}"


def _stream(
    source: TensorSource,
    blocks: Sequence[Block],
    pool: ThreadPoolExecutor,
    workers: int,
    progress: BytesProgress | None,
) -> list[int]:
    """The CRC-32 of every block, written; a few are at work at a time, so memory is that of a few."""
    checksums: list[int] = []
    waiting: deque[tuple[Future[int], Block]] = deque()
    total = sum(block.size * len(block.keys) for block in blocks)
    done = 0

    def finish() -> None:
        nonlocal done
        future, block = waiting.popleft()
        checksums.append(future.result())
        done += block.size * len(block.keys)
        if progress is not None:
            progress(done, total)

    for block in blocks:
        waiting.append((pool.submit(_write_block, source, block), block))
        while len(waiting) > 2 * workers:
            finish()
    while waiting:
        finish()
    return checksums


@contextmanager
def _one_compute_thread() -> Iterator[None]:
    """Workers share the cores; threads inside torch's operations would only take them from each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _reserve(handle: int, size: int) -> None:
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(handle, size)


def _write_block(source: TensorSource, block: Block) -> int:
    """Compute a block, write it to every place and return its CRC-32."""
    slot, name = block.keys[0]
    values = source.read(name, slot, block.rows)
    meta = source.meta(name, slot)
    assert values.dtype == meta.dtype, f"{name}: read {values.dtype}, promised {meta.dtype}"
    data = as_bytes(values)
    assert len(data) == block.size, f"{name}: read {len(data)} bytes, promised {block.size}"
    for handle, offset in block.targets:
        write_all(handle, data, offset)
        _start_writeback(handle, offset, len(data))
    return zlib.crc32(data)


def _start_writeback(handle: int, offset: int, size: int) -> None:
    """Ask Linux to begin writing to the disk now, while the next block is computed, and not only at the final sync."""
    function = _sync_file_range()
    if function is not None:
        function(
            handle, ctypes.c_int64(offset), ctypes.c_int64(size), ctypes.c_uint(2)
        )  # a hint: errors do not matter


@cache
def _sync_file_range() -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), "sync_file_range", None)


def write_all(handle: int, data: memoryview, offset: int) -> None:
    """Write bytes at a place in a file, however many calls it takes."""
    while len(data):
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written
