"""How much memory it takes to write a state that is computed as it is written (`store/writer.py`), above Python's own.

    workers * (a block + what is summed at once: a source's rows and their sum, in float32)

It does not depend on the model's size. The pages of the mapped source, of which every byte is read, come on top: a process
is shown to have them, and the system takes them back where it needs them.
"""

from __future__ import annotations

_SUMMED = 2


def streaming_memory(workers: int, block_bytes: int, summed_bytes: int = 0) -> int:
    """Bytes at the peak; `summed_bytes`: numbers that a worker sums at once, in bytes, 0 where entries are only moved.

    >>> streaming_memory(2, 4 << 20) >> 20
    8
    """
    return workers * (block_bytes + _SUMMED * summed_bytes)
