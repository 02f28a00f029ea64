"""A message where a mapped file shrinks under a reader: the system ends the process with SIGBUS, in the middle of an instruction.

No Python handler runs then, for the instruction is tried again for ever. A C handler ends the process itself.
"""

from __future__ import annotations

import ctypes
import os
import signal

_MESSAGE = (
    b"outgrow: a file that was being read became shorter, or its disk failed\n"
    b"  to do:    wait until whoever writes it is done, and start again; nothing was published\n"
)
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)


@_Handler  # type: ignore[untyped-decorator]
def _end(_: int) -> None:
    os.write(2, _MESSAGE)
    os._exit(2)


def say_bus_errors() -> None:
    """From now on a mapped file that shrinks ends this process with a message and exit code 2 (on systems with `signal`)."""
    set_handler = getattr(ctypes.CDLL(None), "signal", None)
    if set_handler is not None:
        set_handler.restype = ctypes.c_void_p
        set_handler.argtypes = (ctypes.c_int, _Handler)
        set_handler(int(signal.SIGBUS), _end)
