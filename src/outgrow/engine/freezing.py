"""Tensors that are left alone for a while: no gradient, so no update, no change of moments, no step counted.

The optimizer goes on holding them, so a state that is saved meanwhile has their moments and steps as they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import nn

from outgrow.errors import ConfigError, near
from outgrow.growth.new_entries import NewEntries
from outgrow.run.after_growth import FreezeConfig


def frozen_names(
    config: FreezeConfig, names: Sequence[str], entries: Mapping[str, NewEntries]
) -> frozenset[str]:
    """Names of the tensors that are frozen; raises ConfigError where it is none or all of them.

    >>> sorted(frozen_names(FreezeConfig(what=("wte.*",)), ["wte.weight", "ln.weight"], {}))
    ['wte.weight']
    """
    if config.what == "old":
        found = frozenset(name for name in names if not entries[name].any)
        if not found:
            raise ConfigError(
                "freeze: the growth gave every tensor new entries, so none is just old",
                fix="grow in depth alone, or name what to freeze by patterns",
            )
    else:
        for pattern in config.what:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(
                    "freeze.what: the pattern matches no parameter",
                    got=pattern,
                    expected=near(pattern, sorted({re.sub(r"\.\d+\.", ".*.", name) for name in names})),
                )
        found = frozenset(name for name in names for one in config.what if fnmatchcase(name, one))
    if len(found) == len(names):
        raise ConfigError("freeze: nothing is left to train", got=config.what)
    return found


@contextmanager
def frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """No gradients for these parameters inside, as before behind."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
