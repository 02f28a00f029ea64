"""Config classes of transformers without its models: what validates a config looks activations up only when it is asked to.

transformers 5.23 imports every activation, and with them torch's compiler and accelerate, for the one table of names that
four of its config classes look into. That takes as long as torch itself. The table is put there later, whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast

_VALIDATORS, _ACTIVATIONS = "transformers.utils.type_validators", "transformers.activations"


class _Late(Mapping[str, Any]):
    """transformers' table of activations, imported by the first look into it."""

    @cached_property
    def _table(self) -> Mapping[str, Any]:
        return cast(Mapping[str, Any], import_module(_ACTIVATIONS).ACT2FN)

    def __getitem__(self, name: str) -> Any:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def import_validators() -> None:
    """Import transformers' checks of config values alone; nothing to do where they, or its activations, are there already.

    A version of transformers without such checks imports what it imports.
    """
    if {_VALIDATORS, _ACTIVATIONS} & set(sys.modules) or find_spec(_VALIDATORS) is None:
        return
    stand_in = ModuleType(_ACTIVATIONS)
    vars(stand_in)["ACT2FN"] = _Late()
    sys.modules[_ACTIVATIONS] = stand_in
    try:
        import_module(_VALIDATORS)
    finally:
        del sys.modules[_ACTIVATIONS]
