"""Ranks as forks of one process, which has imported everything once: a launch costs a second and not six a rank.

The parent starts no threads: torch's pools do not survive a fork. So it has one thread for kernels, and what
trains or grows runs in a fork, on one rank too.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence

import torch

torch.set_num_threads(1)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(world: int, work: Callable[[], object]) -> list[int]:
    """Process numbers of so many ranks that do `work`, with the variables that torchrun sets."""
    port, children = free_port(), []
    gc.freeze()  # a rank that looked for garbage in what it shares with this process would copy every page of it
    for rank in range(world):
        child = os.fork()
        if child == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OUTGROW_TIMEOUT="60")
            try:
                work()
                sys.stdout.flush()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    return children


def wait(children: Sequence[int], seconds: float = 300.0) -> list[int]:
    """Exit statuses; what still runs after some time is killed."""
    until, statuses = time.monotonic() + seconds, dict[int, int]()
    while len(statuses) < len(children):
        for child in children:
            if child not in statuses:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    statuses[child] = status
                elif time.monotonic() > until:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return [statuses[child] for child in children]


def run(world: int, work: Callable[[], object]) -> None:
    """Do `work` on so many ranks; an AssertionError where one fails."""
    statuses = wait(start(world, work))
    assert statuses == [0] * world, f"exit statuses by rank: {statuses}"


def kill_when(children: Sequence[int], victims: Sequence[int], due: Callable[[], bool]) -> None:
    """SIGKILL the victims as soon as it is due, then whoever is left: what a launcher does."""
    while not due():
        assert all(os.waitpid(child, os.WNOHANG) == (0, 0) for child in children), "it ended before"
        time.sleep(0.002)
    for child in (*victims, *(one for one in children if one not in victims)):
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
