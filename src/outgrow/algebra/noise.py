"""Random numbers with an address: (seed, tensor name, row, column), so that order, sharding and block size change no bit.

A number is a quantile of the normal distribution that 16 bits of a hash choose; a word of 32 bits gives two neighbours:

    word(r, c) = mix(row_key(r) + column_key(c // 2)),    number(r, c) = quantile[half c % 2 of word(r, c)]

Keys are permutations of 32 bits, so no two rows and no two pairs of columns are alike. `mix` is multiply and xor-shift
(constants: C. Wellons, hash-prospector). All of it is whole-number arithmetic and one table: the bits are those of any
processor. The 65,536 values have variance 1, kurtosis 2.999 and end at 4.3; docs/explanation/maths.md, Noise.
"""

from __future__ import annotations

from functools import cache, lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Box = tuple[tuple[int, int], ...]
"""(start, stop) of each dimension of a tensor."""
Words = NDArray[np.uint32]

_AT_ONCE = 1 << 17
"""Numbers that are drawn at once: what they pass through stays in a core's own cache."""


def normal_box(
    seed: int,
    name: str,
    shape: tuple[int, ...],
    box: Box,
    *,
    std: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """N(0, std²) in a box of the tensor `name` of this shape; a row is all dimensions but the last.

    >>> whole = normal_box(0, "w", (2, 3, 4), ((0, 2), (0, 3), (0, 4)))
    >>> torch.equal(whole[1:, :2, 1:3], normal_box(0, "w", (2, 3, 4), ((1, 2), (0, 2), (1, 3))))
    True
    """
    *leading, (first, last) = box if len(box) > 1 else (*box, (0, 1))
    rows = np.zeros(1, np.int64)
    for size, (start, stop) in zip(shape, leading, strict=False):
        rows = (rows[:, None] * size + np.arange(start, stop)).reshape(-1)
    return normal(seed, name, rows, first, last, std=std, dtype=dtype).view(
        [stop - start for start, stop in box]
    )


def normal_rows(seed: int, name: str, start: int, stop: int, columns: int) -> Tensor:
    """Standard normal numbers, float32 (stop - start, columns): rows `start` to `stop` of an endless table.

    >>> table = normal_rows(0, "w", 0, 5, 3)
    >>> torch.equal(table[2:4], normal_rows(0, "w", 2, 4, 3))
    True
    """
    return normal(seed, name, np.arange(start, stop), 0, columns)


def normal_at(seed: int, name: str, rows: Tensor, columns: int) -> Tensor:
    """The same table at any rows (int64 index)."""
    return normal(seed, name, rows.numpy(), 0, columns)


def normal(
    seed: int,
    name: str,
    rows: NDArray[np.int64],
    first: int,
    last: int,
    *,
    std: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """N(0, std²) at some rows and at columns `first` to `last`; std is applied in float64, before the one rounding."""
    count, begin, end = len(rows), first // 2, (last + 1) // 2  # words of a row
    out = torch.empty(count, last - first, dtype=dtype)
    if not out.numel():
        return out
    key = blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    row_keys = _permuted(rows, key[:8])[:, None]
    column_keys = _column_keys(key[8:], begin, end)[None, :]
    values, target = _values(std, dtype), _bits(out)
    step = max(1, min(count, _AT_ONCE // (2 * (end - begin))))
    word, scratch = np.empty((2, step, end - begin), np.uint32)
    skip = first - 2 * begin
    for start in range(0, count, step):
        here = min(step, count - start)
        np.add(row_keys[start : start + here], column_keys, out=word[:here])
        _mix(word[:here], scratch[:here])
        halves = word[:here].astype("<u4", copy=False).view("<u2")[:, skip : skip + last - first]
        np.take(values, halves, out=target[start : start + here], mode="clip")  # clip: no copy of `out`
    return out


def _permuted(numbers: NDArray[Any], key: bytes) -> Words:
    """A permutation of 32 bits that the key of 8 bytes chooses, at these numbers."""
    first, second = np.frombuffer(key, "<u4").astype(np.uint32)
    words: Words = numbers.astype(np.uint32) ^ first
    scratch = np.empty_like(words)
    _mix(words, scratch)
    words += second
    _mix(words, scratch)
    return words


@lru_cache(maxsize=64)
def _column_keys(key: bytes, begin: int, end: int) -> Words:
    """A tensor is drawn a few rows at a time: the keys of its columns are the same each time."""
    return _permuted(np.arange(begin, end), key)


def _mix(words: Words, scratch: Words) -> None:
    """A permutation of 32 bits in place, in which every bit of the input moves about half of the output's."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97), (15, None)):
        np.right_shift(words, np.uint32(shift), out=scratch)
        np.bitwise_xor(words, scratch, out=words)
        if factor is not None:
            np.multiply(words, np.uint32(factor), out=words)


@lru_cache(maxsize=16)
def _values(std: float, dtype: torch.dtype) -> NDArray[Any]:
    """The numbers that can be drawn, as bits."""
    return _bits((_quantiles() * std).to(dtype))


def _bits(numbers: Tensor) -> NDArray[Any]:
    """The same memory as whole numbers: numpy has no bfloat16."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[numbers.itemsize]
    bits: NDArray[Any] = numbers.view(whole).numpy()
    return bits


@cache
def _quantiles() -> Tensor:
    """float64 (65536,): the middle of each of as many equally likely intervals of N(0, 1), with variance 1."""
    middles = (torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)
    values: Tensor = torch.special.ndtri(middles)
    return values / values.square().mean().sqrt()
