"""SIGTERM and Ctrl-C: work that is asked to stop comes to a place where its state is whole, and then stops.

    with noted() as request:        # the first signal is only noted; a second one acts at once
        for step in steps:
            ...
            if request.number:      # save here
                break
    # at the end of the block a noted signal does what it would have done: `Stopped` under the command line

The command line ends with 128 + the number of the signal, as shells count: 143 for SIGTERM, 130 for Ctrl-C.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """The process was asked to stop by the signal `number`. Not an `Exception`: nothing on the way may take it for a fault."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def code(self) -> int:
        """The exit code."""
        return 128 + self.number


@dataclass
class Request:
    """Whether the work was asked to stop, and by which signal."""

    number: int | None = None

    @property
    def name(self) -> str:
        """The signal in words."""
        return signal.Signals(self.number).name if self.number else "none"


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, either signal raises `Stopped` at once, so that every `finally` on the way cleans up."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled(stop):
        yield


@contextmanager
def noted() -> Iterator[Request]:
    """Inside, the first signal is noted and the second acts; at the end the noted one acts, unless an error is under way."""
    request = Request()
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.number = number
        for one, handler in before.items():
            signal.signal(one, handler)

    with _handled(note, before):
        yield request
    if request.number is not None:
        signal.raise_signal(request.number)


@contextmanager
def _handled(
    handler: Callable[[int, FrameType | None], None], before: dict[int, Any] | None = None
) -> Iterator[None]:
    """Both signals go to a handler. Outside the main thread, which alone gets signals, nothing happens."""
    kept = {} if before is None else before
    if threading.current_thread() is threading.main_thread():
        kept |= {one: signal.getsignal(one) for one in SIGNALS if signal.getsignal(one) is not None}
        for one in kept:
            signal.signal(one, handler)
    try:
        yield
    finally:
        for one, old in kept.items():
            signal.signal(one, old)
