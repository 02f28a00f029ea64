"""A growth: two models, a pair of maps for every axis, and which layers come from which.

    operator(small, large) -> Growth -> plan(growth) -> one recipe per tensor

An operator chooses maps for the *free* axes. What follows from them (norm outputs, tied heads, attention scale, eps)
is worked out in `constraints`, so that no operator has to know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from outgrow.architectures import Model, growable, resolve
from outgrow.architectures.expressions import evaluate
from outgrow.errors import GrowthError, near
from outgrow.linear import LinearMap
from outgrow.maps import AxisMap, LayerMap, identity


@dataclass(frozen=True)
class Growth:
    """How one model becomes a larger one.

    `axes` maps each free axis, or neighbouring axes whose map is no product (`"kv_heads group"`), to its pair of maps.
    `noise` is the standard deviation, in units of the model's initializer range, of noise that readers cannot see.
    """

    small: Model
    large: Model
    axes: Mapping[str, AxisMap] = field(hash=False)
    layers: LayerMap = field(hash=False)
    noise: float = 0.0
    seed: int = 0
    provenance: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    def then(self, later: Growth) -> Growth:
        """This growth, then a later one, as one: every map is composed.

        Raises GrowthError where new units hold values of their own (fresh rows, noise): those exist only once drawn.
        """
        for growth in (self, later):
            if growth.noise or growth.has_fresh_units:
                raise GrowthError(
                    "growths with fresh units or noise cannot be joined into one", fix="grow twice instead"
                )
        for joint in (name for name in (*self.axes, *later.axes) if " " in name):
            raise GrowthError(
                f"the joint map of '{joint}' cannot be joined with another growth", fix="grow twice instead"
            )
        axes = {
            name: axis if self._is_derived(name) else axis.then(later.axes[name])
            for name, axis in self.axes.items()
        }
        return replace(
            self,
            large=later.large,
            axes=axes,
            layers=self.layers.then(later.layers),
            provenance=(*self.provenance, *later.provenance),
        )

    @property
    def has_fresh_units(self) -> bool:
        """Whether any new unit copies nothing and is drawn at random on one side."""
        return any(self._is_fresh(name, axis) for name, axis in self.axes.items() if name in self.small.axes)

    def _is_fresh(self, name: str, axis: AxisMap) -> bool:
        through = self.small.axes[name].through
        # New tokens begin as a mean, and the keys of new query dimensions are zero: neither is drawn.
        drawn = through != "lookup" and not (through == "dot" and axis.fresh == "readers")
        return drawn and not covered(axis.forward)

    def _is_derived(self, name: str) -> bool:
        """Whether `constraints` works this axis's map out from another's: what stands here is a place-holder."""
        spec = self.small.axes[name]
        return spec.through == "norm" or spec.like is not None


def no_layers(model: Model) -> LayerMap:
    """Every layer stays."""
    return LayerMap.of(range(model.layers), small=model.layers)


def no_width(model: Model) -> dict[str, AxisMap]:
    """Every axis stays."""
    return {name: identity(size) for name, size in model.sizes.items()}


def target(small: Model, to: Mapping[str, Any]) -> Model:
    """The model that the fields of `to` ask for. Fields are config fields, under the model's own or the common names.

    Raises GrowthError for an unknown field, a size that does not fit, or one that shrinks.

    >>> small = resolve({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11})
    >>> target(small, {"hidden_size": 12, "n_layer": 3}).sizes["mlp"]
    48
    """
    spec = small.spec
    config = dict(small.config)
    for name, expression in spec.pin.items():
        if config.get(name) is None:
            config[name] = evaluate(expression, config)
    allowed = growable(spec)
    for asked, value in to.items():
        name = spec.aliases.get(asked, asked)
        if name not in allowed:
            raise GrowthError(
                f"'{asked}' is not a size of {spec.model_type} that can grow ({near(asked, [*allowed, *spec.aliases])})"
            )
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise GrowthError(f"size '{asked}' must be a positive whole number", got=repr(value))
        config[name] = value
    for name in spec.layers.lists:
        config.pop(name, None)  # per-layer lists follow the layers; `plan` writes them
    large = resolve(config)
    for name, size in small.sizes.items():
        shrinks_with_more_kv_heads = name == "group" and large.sizes["kv_heads"] > small.sizes["kv_heads"]
        if large.sizes[name] < size and not shrinks_with_more_kv_heads:
            raise GrowthError(
                f"axis '{name}' ({spec.axes[name].size}) of {spec.model_type} would shrink",
                got=large.sizes[name],
                expected=f"at least {size}",
                fix="outgrow only grows: choose sizes at or above the source's",
            )
        if not spec.axes[name].can_grow and large.sizes[name] != size:
            raise GrowthError(
                f"axis '{name}' of {spec.model_type} cannot grow", got=large.sizes[name], expected=size
            )
    if large.layers < small.layers:
        raise GrowthError(
            "the target has fewer layers than the source",
            got=large.layers,
            expected=f"at least {small.layers}",
        )
    return large


def grown_config(growth: Growth, eps: Mapping[str, float]) -> dict[str, Any]:
    """The large model's full config: sizes, norm eps, and per-layer lists copied with their layers."""
    config = dict(growth.large.config)
    config.update(eps)
    for name in growth.small.spec.layers.lists:
        old = growth.small.config.get(name)
        if old is not None:
            config[name] = [old[growth.layers.sources(layer)[0]] for layer in range(growth.layers.large)]
    return config


def covered(map_: LinearMap) -> bool:
    """Whether every output unit reads something."""
    return bool(map_.covered().all())
