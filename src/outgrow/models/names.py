"""What a model's tensors are called, where they are tied, and what its files may call them: by its architecture file.

A file of outgrow's own is held against transformers by a test, class by class (tests/test_described_names.py), so nothing
is built and no class of a model is imported. Any other file is held against what the library builds (`library`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from outgrow.models.architecture import load_architecture
from outgrow.models.bare import bare_class
from outgrow.models.bounds import class_names
from outgrow.models.files import folders
from outgrow.models.model import Model, Parameter
from outgrow.models.spec import ArchitectureSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelNames:
    """What a model's parameters are called, where they are tied, and what its files may call them."""

    shapes: Mapping[str, Shape]
    """In-memory name to shape, tied weights once, and behind them the saved buffers."""
    aliases: Mapping[str, str]
    """Further names of tied weights, to the name above that owns them."""
    prefix: str
    """`base_model_prefix`: hub files of some models lack it."""
    ignored: tuple[str, ...] = ()
    """Tensors in published files that are no parameters, as the architecture file says: patterns of `fnmatch`."""
    disk: Mapping[str, str] = field(default_factory=dict)
    """Parts of names in published files -> in memory, replaced one after the other."""
    apart: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    """A parameter that files may hold in parts: the parts' names, per unit of its first dimension."""
    buffers: frozenset[str] = frozenset()
    """Those of the names that are buffers: saved, but not trained."""

    @property
    def trained(self) -> dict[str, Shape]:
        """The parameters, without the buffers."""
        return {name: shape for name, shape in self.shapes.items() if name not in self.buffers}


def is_tested(config: Mapping[str, Any]) -> bool:
    """Whether a test of outgrow's own holds the description of this model against transformers.

    It does for files of outgrow's own, the class that a file describes and that class without its head. With a folder of
    other files nothing is held, since one of them may stand for what a file of ours extends.
    """
    if len(folders()) > 1:
        return False
    spec = load_architecture(str(config.get("model_type")))
    own = {spec.class_, bare_class(spec), *(one.of_class for one in spec.parameters.values())}
    named = class_names(config)
    return spec.library == "transformers" and len(named) == 1 and named[0] in own


def described_names(model: Model) -> ModelNames:
    """The names that an architecture file gives: parameters, then saved buffers, layer by layer.

    >>> from outgrow.models.architecture import resolve
    >>> config = {"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11}
    >>> found = described_names(resolve(config | {"tie_word_embeddings": True}))
    >>> found.prefix, dict(found.aliases)
    ('transformer', {'lm_head.weight': 'transformer.wte.weight'})
    """
    every = model.parameters
    order = sorted(every, key=lambda name: not every[name].is_trained)
    shapes = {name: model.shape(name) for name in order}
    aliases = {twin: name for name in order for twin in every[name].tied_names}
    aliases |= {twin: name for twin, name in model.spec.same.items() if name in shapes}
    return ModelNames(
        shapes,
        aliases,
        _prefix(model.spec),
        model.spec.ignored,
        model.spec.disk,
        {name: parts for name in order if (parts := parts_in_files(every[name], shapes))},
        frozenset(name for name in order if not every[name].is_trained),
    )


def _prefix(spec: ArchitectureSpec) -> str:
    """Where the model without its head stands inside that with one."""
    return spec.prefix or next(name for name in spec.parameters if "{L}" in name).partition(".")[0]


def parts_in_files(parameter: Parameter, shapes: Mapping[str, Shape]) -> tuple[tuple[str, ...], ...]:
    """What files call the parts of a parameter: `mlp.experts.3.w1.weight` beside `mlp.experts.gate_up_proj`."""
    if not parameter.apart or parameter.name not in shapes:
        return ()
    module = parameter.name.rsplit(".", 1)[0]
    units = range(shapes[parameter.name][0])
    return tuple(
        tuple(f"{module}.{re.sub('{.*}', str(unit), part)}" for part in parameter.apart) for unit in units
    )
