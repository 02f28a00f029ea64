"""The target of a growth: the config fields that grow, and what follows from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from outgrow.algebra.maps import LayerMap
from outgrow.errors import GrowthError, near
from outgrow.growth.growth import Growth
from outgrow.models.architecture import fixed, growable, load_architecture, resolve
from outgrow.models.conversion import edges
from outgrow.models.expressions import got, size_of, with_field
from outgrow.models.files import known
from outgrow.models.model import Model
from outgrow.models.spec import ArchitectureSpec

_MOST_TIMES = 1000
"""No model was ever grown by such a factor in one size; without a bound a slip of the finger resolves layers for hours."""


def target(
    small: Model,
    to: Mapping[str, Any],
    layers: LayerMap | None = None,
    *,
    finer: frozenset[str] = frozenset(),
) -> Model:
    """The model that the fields of `to` ask for. Fields are config fields, under the model's own or the common names.

    `layers` says which layers the new ones are made of, for per-layer lists and kinds of layers; without it, old layers
    stand for new ones as evenly as they can. `finer` names axes that may shrink, because what they measure is cut in
    pieces: units inside experts.

    Raises GrowthError for an unknown field, a size that does not fit, or one that shrinks.

    >>> small = resolve({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11})
    >>> target(small, {"hidden_size": 12, "n_layer": 3}).sizes["mlp"]
    48
    """
    check_sizes(to)
    large = resolve(_followed(small, _asked(small, to), to, layers))
    _check_grown(small, large, finer)
    return large


def _asked(small: Model, to: Mapping[str, Any]) -> dict[str, Any]:
    """The small model's config with the sizes that are asked for; GrowthError for what is no size of it."""
    spec = small.spec
    config = dict(small.config)
    for name, expression in spec.pin.items():
        if got(config, name) is None:
            config = with_field(config, name, size_of(expression, config))
    allowed, said = growable(spec), dict[str, str]()
    for asked, value in to.items():
        name = spec.aliases.get(asked, asked)
        if said.setdefault(name, asked) != asked:
            raise GrowthError(f"'{said[name]}' and '{asked}' are the same size", fix="give one of them")
        if name not in allowed:
            stays = fixed(spec).get(name)
            why = f"axis '{stays}' stays as it is; " if stays else ""
            raise GrowthError(
                f"'{asked}' is not a size of {spec.model_type} that can grow"
                f" ({why}{near(asked, [*allowed, *spec.aliases])})",
                fix=_described_first(spec, asked),
            )
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise GrowthError(f"size '{asked}' must be a positive whole number", got=repr(value))
        now = max(1, _now(small, name, allowed[name]))
        if value > _MOST_TIMES * now:
            raise GrowthError(
                f"size '{asked}' would grow by more than {_MOST_TIMES:,} times, which can only be a slip",
                got=value,
                expected=f"at most {_MOST_TIMES * now:,}",
            )
        config = with_field(config, _written(name, spec, config), value)
    return config


def _followed(
    small: Model, config: dict[str, Any], to: Mapping[str, Any], layers: LayerMap | None
) -> dict[str, Any]:
    """The config with what follows from its sizes: key/value heads, further fields, and what is said of single layers."""
    spec = small.spec
    _follow_heads(small, {spec.aliases.get(asked, asked) for asked in to}, config)
    for name, expression in spec.follow.items():
        config = with_field(config, name, size_of(expression, config))
    count = got(config, spec.layers.count)
    if type(count) is int and count > small.layers > 0:
        layers = layers or LayerMap.of([layer * small.layers // count for layer in range(count)])
        for name, value in grown_lists(small, layers).items():
            config = with_field(config, name, value)
    elif not small.layers:
        for name in spec.layers.lists:
            config = with_field(config, name, None)  # nothing to follow: transformers writes the list
    return config


def _check_grown(small: Model, large: Model, finer: frozenset[str]) -> None:
    """Raises GrowthError where something shrinks, or grows that cannot."""
    spec = small.spec
    for name, size in small.sizes.items():
        shrinks_with_more_kv_heads = name == "group" and large.sizes["kv_heads"] > small.sizes["kv_heads"]
        if large.sizes[name] < size and name not in finer and not shrinks_with_more_kv_heads:
            raise GrowthError(
                f"axis '{name}' ({spec.axes[name].size}) of {spec.model_type} would shrink",
                got=large.sizes[name],
                expected=f"at least {size}",
                fix="outgrow only grows: choose sizes at or above the source's",
            )
        routed = any(name in (one.choices, one.experts) for one in spec.routers.values())
        if not spec.axes[name].can_grow and not routed and large.sizes[name] != size:
            raise GrowthError(
                f"axis '{name}' ({spec.axes[name].size}) of {spec.model_type} cannot grow",
                got=large.sizes[name],
                expected=size,
                fix=f"choose sizes with {spec.axes[name].size} = {size}",
            )
    before, after = (got(one.config, spec.length or "") or 0 for one in (small, large))
    if after < before:
        raise GrowthError(
            f"{spec.length} of {spec.model_type} would shrink", got=after, expected=f"at least {before}"
        )
    if large.layers < small.layers:
        raise GrowthError(
            "the target has fewer layers than the source",
            got=large.layers,
            expected=f"at least {small.layers}",
        )


def check_sizes(to: object) -> None:
    """Raises GrowthError for what is no mapping of sizes by name."""
    if not isinstance(to, Mapping):
        raise GrowthError(
            "sizes are given by name",
            got=f"{to!r}"[:80],
            expected="to={'hidden_size': 768, 'num_hidden_layers': 12}",
        )


def reached(small: Model, to: Mapping[str, Any]) -> bool:
    """Whether every size that is asked for is there already, or a larger one.

    >>> small = resolve({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11})
    >>> reached(small, {"hidden_size": 4, "n_layer": 1}), reached(small, {"n_layer": 2})
    (True, False)
    """
    check_sizes(to)
    allowed = growable(small.spec)
    names = {small.spec.aliases.get(asked, asked): value for asked, value in to.items()}
    return all(name in allowed and _now(small, name, allowed[name]) >= names[name] for name in names)


def _described_first(spec: ArchitectureSpec, asked: str) -> str | None:
    """What to do where another description of the same model has such a size: experts of a dense model."""
    known_types = set(known())
    others = [to for from_, to in edges() if from_ == spec.model_type and to in known_types]
    found = [
        to for to in others if asked in {**growable(load_architecture(to)), **load_architecture(to).aliases}
    ]
    return f"describe it as another type first: --as {' or --as '.join(found)}" if found else None


def _now(small: Model, field: str, axis: str) -> int:
    """The size that a field asks about."""
    if field == small.spec.layers.count:
        return small.layers
    return small.sizes[axis] if axis in small.sizes else int(got(small.config, field) or 1)


def _written(name: str, spec: ArchitectureSpec, config: Mapping[str, Any]) -> str:
    """The field in which this config counts what `name` counts: versions of transformers call experts differently."""
    for router in spec.routers.values():
        names = [one.strip() for one in spec.axes[router.experts].size.split("|")]
        if name in names:
            return next((one for one in names if got(config, one) is not None), name)
    return name


def _follow_heads(small: Model, asked: Collection[str], config: dict[str, Any]) -> None:
    """Key/value heads of multi-head attention follow its heads; of grouped ones, an error says which numbers would do.

    Raises GrowthError where heads are no multiple of key/value heads.
    """
    group = small.spec.axes.get("group")
    if group is None:
        return
    heads, _, shared = group.size.split("|")[0].strip().partition(" // ")
    now, keys = got(config, heads), got(config, shared)
    if heads not in asked or not now or not keys or not now % keys:
        return
    before = int(got(small.config, heads))
    if keys == before and shared not in asked:
        config |= with_field(config, shared, now)
        return
    ratio = before // int(got(small.config, shared) or before)
    choices = [count for count in range(keys, now + 1) if not now % count]
    if not choices:
        raise GrowthError(
            f"{keys} key/value heads are more than the heads that would share them ({shared} and {heads} of {small.spec.model_type})",
            expected=f"{heads} a multiple of {keys}",
            fix=f"ask for {heads}={-(-now // keys) * keys}, or for fewer {shared}",
        )
    same = now // ratio if now % ratio == 0 and now // ratio >= keys else choices[0]
    raise GrowthError(
        f"{now} heads cannot share {keys} key/value heads evenly ({heads} and {shared} of {small.spec.model_type})",
        expected=f"{shared} one of {', '.join(map(str, choices))}",
        fix=f"add {shared}={same}",
    )


def grown_config(growth: Growth, eps: Mapping[str, float]) -> dict[str, Any]:
    """The large model's full config: sizes, norm eps, and per-layer lists copied with their layers."""
    config = dict(growth.large.config)
    for name, value in {**eps, **grown_lists(growth.small, growth.layers)}.items():
        config = with_field(config, name, value)
    return config


def grown_lists(small: Model, layers: LayerMap) -> dict[str, Any]:
    """Config fields that say something of single layers, as the layers are copied: lists, numbers of layers, leading counts.

    Raises GrowthError where layers that a field counts from the first would be mixed with others.
    """
    found: dict[str, Any] = {}
    spec = small.spec.layers
    for name in spec.lists:
        old = got(small.config, name)
        if old and small.layers:
            found[name] = _grown_list(old, layers)
    for name in spec.runs:
        old = [one for some, times in got(small.config, name) or () for one in some * times]
        if old and small.layers:
            found[name] = [[_grown_list(old, layers), 1]]
    for name in spec.index_lists:
        old = got(small.config, name)
        if old is not None:
            found[name] = [new for new in range(layers.large) if _stands_for(layers, new) in old]
    for name in spec.prefixes:
        old = got(small.config, name)
        if old is not None:
            leading = [new for new in range(layers.large) if _stands_for(layers, new) < old]
            if leading != list(range(len(leading))):
                raise GrowthError(
                    f"layers of two kinds would be mixed, and {name} only counts the first ones",
                    got=f"layers of the first kind at {leading}",
                    fix="use --depth identity or interleave, which keep a layer beside its copies",
                )
            found[name] = len(leading)
    return found


def _stands_for(layers: LayerMap, new: int) -> int:
    """The old layer whose kind a new layer has: its first source, or where it has none that of the layer before."""
    while new > 0 and not layers.sources(new):
        new -= 1
    return layers.sources(new)[0] if layers.sources(new) else 0


def _grown_list(old: list[Any], layers: LayerMap) -> list[Any]:
    """A per-layer list follows its layers; a layer made of nothing follows the one before it."""
    return [old[_stands_for(layers, layer)] for layer in range(layers.large)]
