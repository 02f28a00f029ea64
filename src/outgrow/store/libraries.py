"""Versions of what a state's numbers depend on: kept with every state, and the same on every process of one launch."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

_LIBRARIES = ("outgrow", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Version by library; "source tree" for one that is not installed."""
    return {name: _version(name) for name in _LIBRARIES}


@cache  # every checkpoint asks, and the answer is in a file of its own that is parsed as mail
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "source tree"
