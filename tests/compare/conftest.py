"""The corpus of the training tests."""

from train.conftest import _as_before, corpus

__all__ = ["_as_before", "corpus"]
