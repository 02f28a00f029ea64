"""One process per device on this host, by torchrun's own engine; several hosts start torchrun themselves (docs/howto/distributed.md)."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

_SAVING_SECONDS = 120
"""For the ranks to save a checkpoint after SIGTERM, before they are killed; `TORCH_ELASTIC_SHUTDOWN_TIMEOUT` sets others."""


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `python -m outgrow ARGUMENTS` as so many ranks; returns the code of the one that failed first, 0 if none did.

    SIGTERM and Ctrl-C are passed on, so that the ranks save a checkpoint and end.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the ranks say what is wrong
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=int(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SAVING_SECONDS)),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "outgrow", *arguments)
    except SignalException as stop:
        return 128 + stop.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            what = signal.Signals(-failure.exitcode).name
            print(f"outgrow: rank {rank} was killed by {what}: start the same command again", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    return 0
