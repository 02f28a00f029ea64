"""One process of several, before torch is there and after it is gone: who started it, whether it may speak, how it ends."""

from __future__ import annotations

import os
import socket
import sys
from datetime import timedelta

from outgrow.errors import ConfigError, OutgrowError


class ElsewhereError(OutgrowError):
    """Another rank has failed, and says why."""


def launched() -> bool:
    """Whether a launcher (torchrun, accelerate, srun with its variables) started this process as one of several."""
    return not _is_count(os.environ.get("WORLD_SIZE") or "1", range(2))


def check_launch() -> None:
    """Raise ConfigError where the launcher's variables do not say who this process is, and where the others meet."""
    given = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")}
    world = int(given["WORLD_SIZE"]) if _is_count(given["WORLD_SIZE"], range(10**6)) else 0
    right = {
        "WORLD_SIZE": world > 0,
        "RANK": _is_count(given["RANK"], range(world)),
        "MASTER_ADDR": bool(given["MASTER_ADDR"]),
        "MASTER_PORT": _is_count(given["MASTER_PORT"], range(1, 2**16)),
        "LOCAL_RANK": _is_count(os.environ.get("LOCAL_RANK", "0"), range(10**6)),
        "OUTGROW_TIMEOUT": _is_count(os.environ.get("OUTGROW_TIMEOUT", "1"), range(1, 10**9)),
    }
    if wrong := [name for name, is_right in right.items() if not is_right]:
        raise ConfigError(
            f"WORLD_SIZE makes this one process of several, and {' and '.join(wrong)} of its environment cannot be used",
            got=", ".join(f"{name}={os.environ.get(name, '(not set)')}" for name in ("WORLD_SIZE", *wrong)),
            fix="start it with torchrun, which sets them all; for one process alone: unset WORLD_SIZE",
        )


def _is_count(words: str, allowed: range) -> bool:
    return words.isascii() and words.isdecimal() and len(words) < 12 and int(words) in allowed


def leads() -> bool:
    """Whether this is the only process, or the first of its launch: what all of them find out, one prints."""
    return not launched() or os.environ.get("RANK", "0") == "0"


def speaks() -> bool:
    """Whether this process may tell how it ends: the first of a launch that asks may.

    It asks the launcher's store anew, so it works at any moment; where none answers, it speaks: better twice than never.
    """
    if not launched():
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        socket.create_connection((host, port), 5).close()  # torch would wait, and tell its own frames
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return bool(store.add(f"outgrow/spoken/{attempt}", 1) == 1)
    except (OSError, RuntimeError, KeyError, ValueError):
        return True


def end_process(code: int) -> None:
    """End one of several processes without the interpreter's own end, where the threads of gloo abort now and then.

    After an error the process group is left as it is: other ranks may be inside of it, and the launcher ends them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 0:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
    os._exit(code)
