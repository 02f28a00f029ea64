"""The corpus and cache of the training tests."""

from train.conftest import _as_before, cache, corpus

__all__ = ["_as_before", "cache", "corpus"]
