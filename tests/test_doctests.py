"""Every example in a docstring runs and gives what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import outgrow

EXTRAS = {"datasets", "tensorboard", "accelerate"}
MODULES = [module.name for module in pkgutil.walk_packages(outgrow.__path__, "outgrow.")]


@pytest.mark.parametrize("name", ["outgrow", *(name for name in MODULES if not name.endswith("__main__"))])
def test_examples(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # an example that writes leaves nothing behind
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in EXTRAS:
            pytest.skip(f"{name} needs the extra '{error.name}'")
        raise
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not result.failed
