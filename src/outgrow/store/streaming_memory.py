"""How much memory it takes to write a state that is computed as it is written (`store/writer.py`), above Python's own.

    workers * (a block + what a worker holds beside it)

It does not depend on the model's size. The pages of the mapped source, of which every byte is read, come on top: a process
is shown to have them, and the system takes them back where it needs them. What a thread's heap keeps of freed blocks comes on
top too, some ten megabytes a thread.
"""

from __future__ import annotations


def streaming_memory(workers: int, block_bytes: int, beside_bytes: int = 0) -> int:
    """Bytes at the peak; `beside_bytes`: what each worker holds beside its block, 0 where entries are only moved.

    >>> streaming_memory(2, 4 << 20) >> 20
    8
    """
    return workers * (block_bytes + beside_bytes)
