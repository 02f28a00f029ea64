"""CRC-32 of parts that are written in any order: crc(a + b) from crc(a), crc(b) and the length of b.

A checksum is linear over bits. Feeding one zero byte multiplies the 32-bit register by a fixed matrix Z, so
crc(a + b) = Z^len(b) crc(a) xor crc(b). `zlib.crc32` is chosen because it needs no dependency, frees the interpreter
lock and runs at over 2 GiB/s where blake2b reaches 0.5; it finds damage, it does not stop an attacker.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

Matrix = tuple[int, ...]  # column i is the image of bit i


def combine(first: int, second: int, second_length: int) -> int:
    """The CRC-32 of two parts one after the other.

    >>> import zlib
    >>> combine(zlib.crc32(b"out"), zlib.crc32(b"grow"), 4) == zlib.crc32(b"outgrow")
    True
    """
    return _times(_zeros(second_length), first) ^ second


def combine_all(parts: Iterable[tuple[int, int]]) -> int:
    """The CRC-32 of `(crc, length)` parts in order."""
    total = 0
    for crc, length in parts:
        total = combine(total, crc, length)
    return total


def _times(matrix: Matrix, vector: int) -> int:
    result = 0
    for column in matrix:
        if not vector:
            break
        if vector & 1:
            result ^= column
        vector >>= 1
    return result


@lru_cache(maxsize=4096)
def _zeros(length: int) -> Matrix:
    """The matrix that feeds `length` zero bytes, by repeated squaring."""
    power = _one_zero_byte()
    result: Matrix = tuple(1 << bit for bit in range(32))
    while length:
        if length & 1:
            result = tuple(_times(power, column) for column in result)
        power = tuple(_times(power, column) for column in power)
        length >>= 1
    return result


@lru_cache(maxsize=1)
def _one_zero_byte() -> Matrix:
    one_bit: Matrix = (0xEDB88320, *(1 << bit for bit in range(31)))
    for _ in range(3):  # 1 -> 2 -> 4 -> 8 bits
        one_bit = tuple(_times(one_bit, column) for column in one_bit)
    return one_bit
