"""One process of several, before torch is there and after it is gone: who started it, whether it may speak, how it ends."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

from outgrow.errors import OutgrowError


class ElsewhereError(OutgrowError):
    """Another rank has failed, and says why."""


def launched() -> bool:
    """Whether a launcher (torchrun, accelerate, srun with its variables) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def speaks() -> bool:
    """Whether this process may tell how it ends: the first of a launch that asks may.

    It asks the launcher's store anew, so it works at any moment; where none answers, it speaks: better twice than never.
    """
    if not launched():
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return bool(store.add(f"outgrow/spoken/{attempt}", 1) == 1)
    except (RuntimeError, KeyError, ValueError):
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
