"""Random numbers with an address: (seed, tensor name, row), so that order, sharding and block size change no bit.

A counter-based generator (Philox) is placed at row r of the tensor's own stream; each row has a fixed length there.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


def normal_rows(seed: int, name: str, start: int, stop: int, columns: int) -> Tensor:
    """Standard normal numbers, float32 (stop - start, columns): rows `start` to `stop` of an endless table.

    >>> table = normal_rows(0, "w", 0, 5, 3)
    >>> torch.equal(table[2:4], normal_rows(0, "w", 2, 4, 3))
    True
    """
    blocks = -(-columns // 8)  # one Philox block is 4 words of 64 bits, each gives 2 numbers
    key = int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=16).digest(), "little")
    generator = np.random.Philox(key=key, counter=start * blocks)
    words = generator.random_raw((stop - start) * blocks * 4)
    # Box-Muller on the two halves of a word: radius from the high half, angle from the low one.
    high = ((words >> np.uint64(32)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-32)
    low = (words & np.uint64(0xFFFFFFFF)).astype(np.float32) * np.float32(2 * np.pi * 2**-32)
    radius = np.sqrt(np.float32(-2) * np.log(np.clip(high, 1e-38, 1.0)))
    values = np.stack([radius * np.cos(low), radius * np.sin(low)], axis=-1)
    return torch.from_numpy(values.reshape(stop - start, blocks * 8)[:, :columns].copy())


def normal_at(seed: int, name: str, rows: Tensor, columns: int) -> Tensor:
    """The same table at any rows (int64 index)."""
    out = torch.empty(len(rows), columns)
    breaks = [0, *((rows.diff() != 1).nonzero().flatten() + 1).tolist(), len(rows)]
    for begin, end in pairwise(breaks):
        if begin < end:
            out[begin:end] = normal_rows(seed, name, int(rows[begin]), int(rows[end - 1]) + 1, columns)
    return out
