"""Architectures as data: from a model's config to the axes and signatures of every parameter.

One YAML file per model type says which axes each tensor writes and reads; this module reads it, and `resolve`
applies it to a config. Adding an architecture is adding a file (CONTRIBUTING, "add an architecture").
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial, reduce
from itertools import groupby
from typing import Any

from pydantic import ValidationError

from outgrow.algebra.axes import Signature, parse
from outgrow.errors import ArchitectureError, near
from outgrow.files.mistakes import explain
from outgrow.models.absent import absent_axes, without_axes
from outgrow.models.bare import bare_class, without_head
from outgrow.models.bounds import check_bounds, class_names
from outgrow.models.expressions import beside, factor, fields, got, size_of, with_field
from outgrow.models.files import FOLDERS, file_of, known, merged
from outgrow.models.lines import line_of
from outgrow.models.model import Model, Parameter
from outgrow.models.spec import ArchitectureSpec, KindSpec, ParameterSpec, RouterSpec


@lru_cache(maxsize=128)
def _load(model_type: str, folders: str) -> ArchitectureSpec:
    found = file_of(model_type)
    if found is None:
        raise ArchitectureError(
            f"no architecture file for model type '{model_type}' ({near(model_type, known())})",
            fix=f"write {model_type}.yaml (docs/howto/add-an-architecture.md says how), check it with `outgrow architectures check"
            f" {model_type}.yaml`, and give its folder with --architectures or {FOLDERS}",
        )
    return described(model_type, merged(model_type))


def load_architecture(model_type: str) -> ArchitectureSpec:
    """The architecture file of a model type.

    >>> load_architecture("gpt2").class_
    'GPT2LMHeadModel'
    """
    return _load(model_type, os.environ.get(FOLDERS, ""))


def described(model_type: str, content: Mapping[str, Any]) -> ArchitectureSpec:
    """The content of an architecture file, checked: an unknown key, axis or kind of layer is an error that names it and its line."""
    where = partial(line_of, model_type)
    try:
        spec = ArchitectureSpec.model_validate(content)
    except ValidationError as error:
        raise ArchitectureError(explain(error, content, where, ArchitectureSpec)) from None
    for keys, named in _named_axes(spec, where):
        if named not in spec.axes:
            raise ArchitectureError(
                f"{where(keys)}: {'.'.join(keys)} names '{named}', which is no axis of it ({near(named, spec.axes)})",
                fix="correct the name, or describe the axis under `axes`",
            )
    if (spec.objective == "features") is not bool(spec.outputs):
        raise ArchitectureError(
            f"{where(['outputs' if spec.outputs else 'objective'])}: objective {spec.objective},"
            f" outputs {dict(spec.outputs) or 'none'}",
            expected="`outputs` of a model without a head (objective `features`), and of no other",
            fix="name each output and the axis of its last dimension: `outputs: {last_hidden_state: final}`",
        )
    for name, one in spec.parameters.items():
        if one.inside is not None and one.inside not in spec.layers.kinds:
            raise ArchitectureError(
                f"{where(['parameters', name, 'inside'])}: {name} is inside '{one.inside}', which is no kind of layer",
                expected=near(one.inside, spec.layers.kinds)
                if spec.layers.kinds
                else "an entry of layers.kinds",
            )
        try:
            factor(
                one.times, reduce(lambda made, field: with_field(made, field, 1), fields(one.times or ""), {})
            )
        except ArchitectureError as error:
            raise ArchitectureError(f"{where(['parameters', name, 'times'])}: {name}: {error}") from None
    return spec


_Keys = Sequence[str]


def _named_axes(spec: ArchitectureSpec, where: Callable[[_Keys], str]) -> Iterator[tuple[_Keys, str]]:
    """What names an axis in a file, by its keys, and the axis. Raises ArchitectureError for a signature that cannot be read."""
    for name, axis in spec.axes.items():
        others = {"of": axis.of, "with": axis.with_, "like": axis.like}
        yield from ((("axes", name, word), other) for word, other in others.items() if other is not None)
    for keys, text in _signatures(spec):
        try:
            signature = parse(text)
        except ArchitectureError as error:
            told = f"{where(keys)}: {'.'.join(keys)}: {error}"
            fix = "write rows <- columns as `mlp <- embed`; docs/reference/architectures.md has the grammar"
            raise ArchitectureError(told, fix=None if "  to do:" in told else fix) from None
        yield from ((keys, axis) for dim in signature.dims for axis in dim.axes)
    yield from ((("outputs", name), axis) for name, axis in spec.outputs.items())


def _signatures(spec: ArchitectureSpec) -> Iterator[tuple[_Keys, str]]:
    """Every signature of a file, or dimension of one, by its keys."""
    for name, one in spec.parameters.items():
        parts = {"axes": one.axes, "at": one.at, "over": one.over and f"({one.over})"}
        yield from ((("parameters", name, word), text) for word, text in parts.items() if text)
    for name, scan in spec.scans.items():
        yield ("scans", name, "heads"), scan.heads
    if spec.relative is not None:
        yield ("relative", "rows"), spec.relative.rows
    for word, text in (("sequence", spec.sequence), ("attended", spec.attended)):
        if text is not None:
            yield (word,), text


@lru_cache(maxsize=64)
def _load_bare(model_type: str, folders: str) -> ArchitectureSpec:
    return without_head(_load(model_type, folders))


@lru_cache(maxsize=64)
def _load_without(model_type: str, folders: str, bare: bool, absent: frozenset[str]) -> ArchitectureSpec:
    return without_axes((_load_bare if bare else _load)(model_type, folders), absent)


def architecture_of(config: Mapping[str, Any]) -> ArchitectureSpec:
    """The architecture of the model that this config describes: of its type's file, without the head or what the config says 0 of.

    >>> architecture_of({"model_type": "bert", "architectures": ["BertModel"]}).outputs
    {'last_hidden_state': 'embed', 'pooler_output': 'pooled'}
    """
    spec, folders = load_architecture(str(config.get("model_type"))), os.environ.get(FOLDERS, "")
    named = class_names(config) or [spec.class_]
    bare = spec.class_ not in named and bare_class(spec) in named
    if absent := absent_axes(spec, config):
        return _load_without(spec.model_type, folders, bare, absent)
    return _load_bare(spec.model_type, folders) if bare else spec


def resolve(config: Mapping[str, Any]) -> Model:
    """The axes, sizes and parameters of the model that this config describes.

    >>> model = resolve({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11})
    >>> model.shape("transformer.h.0.attn.c_attn.weight")
    (6, 18)
    """
    spec = architecture_of(config)
    check_bounds(config)
    _check_requirements(spec.model_type, spec.requires, config)
    _check_followers(spec, config)
    sizes = {name: size_of(axis.size, config) for name, axis in spec.axes.items()}
    count = got(config, spec.layers.count)
    layers = 0 if type(count) is int and count == 0 else size_of(spec.layers.count, config)
    for expression in spec.whole:
        size_of(expression, config)
    for router in spec.routers.values():
        _check_router(router, sizes[router.experts], config)
    tied: dict[str, list[tuple[str, Signature, str | None]]] = {}
    owners: list[tuple[str, Signature, ParameterSpec]] = []
    for pattern, parameter in spec.parameters.items():
        if not _is_there(parameter.when, config) or (parameter.bare and not spec.outputs):
            continue
        if parameter.of_class not in (None, *(class_names(config) or [spec.class_])):
            continue
        if parameter.tied_to is not None and got(config, parameter.when_tied or ""):
            twin = (pattern.partition("@")[0], parse(parameter.axes), parameter.times)
            tied.setdefault(parameter.tied_to, []).append(twin)
        else:
            owners.append((pattern, parse(parameter.axes), parameter))
    parameters: dict[str, Parameter] = {}
    counts = {**sizes, "L": layers}
    for stack, group in groupby(owners, key=lambda owner: _stack(owner[0])):
        patterns = list(group)
        for place in range(counts[stack]) if stack else (0,):  # layer by layer, as a model holds them
            for pattern, signature, one in patterns:
                if one.inside is not None and not is_kind(spec, one.inside, place, config):
                    continue
                pattern = pattern.partition("@")[0]
                name = pattern.replace(f"{{{stack}}}", str(place))
                layer, own = (place, pattern) if stack == "L" else (None, name)
                twins = tied.get(name, ())
                parameters[name] = Parameter(
                    name,
                    own,
                    layer,
                    signature,
                    one,
                    tuple(twin for _, twin, _ in twins),
                    tuple(called for called, _, _ in twins),
                    tuple(times for _, _, times in twins),
                )
    return Model(spec, dict(config), sizes, parameters)


def _is_there(when: str | None, config: Mapping[str, Any]) -> bool:
    """Whether a config field is true, or, behind `not`, false; always, where none is named."""
    if when is None:
        return True
    return bool(got(config, when.removeprefix("not "))) is not when.startswith("not ")


def is_kind(spec: ArchitectureSpec, name: str, layer: int, config: Mapping[str, Any]) -> bool:
    """Whether a layer is of the kind `name`, as the config says.

    >>> spec = described("llama", merged("llama") | {"layers": {"count": "n", "norm": "pre", "branch_outputs": [],
    ...                                              "kinds": {"dense": {"first": "dense_layers"}}}})
    >>> [is_kind(spec, "dense", layer, {"dense_layers": 1}) for layer in (0, 1)]
    [True, False]
    """
    kind = spec.layers.kinds[name]
    if kind.also is not None and not is_kind(spec, kind.also, layer, config):
        return False
    return _is_counted(kind, layer, config) is not kind.not_


def _is_counted(kind: KindSpec, layer: int, config: Mapping[str, Any]) -> bool:
    if kind.list is not None:
        found = got(config, kind.list) or ()
        return layer < len(found) and found[layer] in kind.is_
    if kind.first is not None:
        return layer < int(got(config, kind.first) or 0)
    if kind.indices is not None:
        return layer in (got(config, kind.indices) or ())
    return layer == kind.place


def _stack(pattern: str) -> str | None:
    """What counts the modules that this pattern names: `L`, the layers, or an axis that cannot grow."""
    found = re.search(r"{(\w+)}", pattern)
    return found[1] if found else None


def growable(spec: ArchitectureSpec) -> dict[str, str]:
    """Config fields that `grow` may change, with what they mean.

    >>> sorted(growable(load_architecture("llama")))[:3]
    ['head_dim', 'hidden_size', 'intermediate_size']
    """
    found: dict[str, str] = {spec.layers.count: "layers"}
    still = {axis.size for axis in spec.axes.values() if not axis.kind.grows and not axis.is_router}
    for name, axis in spec.axes.items():
        if axis.can_grow:
            for one in fields(axis.size) - still:
                found.setdefault(one, name)
    if spec.length is not None:
        found.setdefault(spec.length, "length")
    for router in spec.routers.values():
        for expression in (
            spec.axes[router.experts].size,
            router.active,
            router.groups,
            router.groups_chosen,
        ):
            for one in fields(expression or ""):
                found.setdefault(one, router.experts)
    return found


@lru_cache(maxsize=64)
def head_module(model_type: str) -> str | None:
    """Where in such a model the last hidden state becomes scores of tokens; None where it never does.

    >>> head_module("llama"), head_module("bert"), head_module("vit")
    ('lm_head', 'cls', None)
    """
    spec = load_architecture(model_type)
    for name, parameter in spec.parameters.items():
        signature = parse(parameter.axes)
        written = {spec.axes[axis].through for axis in signature.axes("writes")}
        if "lookup" in written and signature.axes("reads"):
            return name.partition(".")[0]
    return None


def own_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config that says what a model of text is: of one that sees images too, the one inside.

    >>> own_config({"model_type": "gemma3", "text_config": {"vocab_size": 37}})["vocab_size"]
    37
    """
    return beside(config, load_architecture(str(config["model_type"])).layers.count)


def longest_sequence(config: Mapping[str, Any]) -> int | None:
    """Tokens that a model has positions for, where its config says so.

    >>> longest_sequence({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1})
    512
    """
    field = _positions(config)
    if field is None:
        return None
    padding = got(config, _beside(config, "pad_token_id")) or 0
    behind = load_architecture(str(config["model_type"])).positions_behind_padding
    return int(got(config, field)) - (int(padding) + 1 if behind else 0)


def _positions(config: Mapping[str, Any]) -> str | None:
    """The field that says for how many tokens there are positions."""
    own = load_architecture(str(config["model_type"])).length or ""
    names = (*(_beside(config, one) for one in ("max_position_embeddings", "n_positions")), own)
    return next((one for one in names if got(config, one)), None)


def _beside(config: Mapping[str, Any], field: str) -> str:
    """A field of the config that counts the layers, be it inside another."""
    inner, dot, _ = load_architecture(str(config["model_type"])).layers.count.rpartition(".")
    return f"{inner}{dot}{field}"


def with_positions(config: Mapping[str, Any], tokens: int) -> str:
    """What gives a model positions for so many tokens, as a config says it.

    >>> with_positions({"model_type": "gpt2", "n_positions": 64}, 128)
    'n_positions: 128'
    >>> with_positions({"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}, 128)
    'max_position_embeddings: 130'
    """
    field = str(_positions(config))
    return f"{field}: {tokens + int(got(config, field)) - (longest_sequence(config) or 0)}"


def fixed(spec: ArchitectureSpec) -> dict[str, str]:
    """Config fields that count units of axes that cannot grow, and of no other, with the axis.

    >>> fixed(load_architecture("vit"))["num_channels"]
    'channels'
    """
    free = growable(spec)
    return {
        one: name
        for name, axis in spec.axes.items()
        if not axis.can_grow
        for expression in (axis.size, axis.active)
        if expression is not None
        for one in sorted(fields(expression))
        if one not in free
    }


def check_depth(model: Model) -> None:
    """Refuse to add layers where the config makes a layer depend on its place."""
    _check_requirements(model.spec.model_type, model.spec.requires_for_depth, model.config)


def _check_requirements(model_type: str, requirements: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    for name, wanted in requirements.items():
        *inner, field = name.split(".")
        holder = got(config, ".".join(inner)) if inner else config
        if holder is not None and holder.get(field, wanted) != wanted:
            raise ArchitectureError(
                f"{model_type} with {name} = {holder[field]} is not described by its architecture file",
                expected=f"{name} = {wanted}",
            )


def _check_followers(spec: ArchitectureSpec, config: Mapping[str, Any]) -> None:
    """Refuse a field of another value than it follows (`follow`); absent and -1, it is left to transformers."""
    for name, expression in spec.follow.items():
        found = got(config, name)
        if type(found) is int and found > 0 and found != (wanted := size_of(expression, config)):
            raise ArchitectureError(
                f"{spec.model_type} with {name} = {found} is not described by its architecture file",
                expected=f"{name} = {expression} = {wanted}",
            )


def _check_router(router: RouterSpec, experts: int, config: Mapping[str, Any]) -> None:
    """Refuse numbers with which transformers builds a model that cannot choose: its first batch ends in an error."""
    active, groups, chosen = (
        found if type(found := got(config, one or "")) is int and found > 0 else 1
        for one in (router.active, router.groups, router.groups_chosen)
    )
    if active > experts:
        raise ArchitectureError(
            f"a token cannot choose {active} of {experts} experts",
            got=f"{router.active} = {active}",
            expected=f"at most {experts}",
        )
    grouped = router.groups and all(config.get(name) == one for name, one in router.groups_when.items())
    least = 2 if router.score == "sigmoid" else 1  # whose groups are chosen by their best two
    if grouped and (experts % groups or chosen > groups or experts // groups < least):
        raise ArchitectureError(
            f"{experts} experts do not make {groups} equal groups of at least {least}, of which a token chooses from {chosen}",
            got=f"{router.groups} = {groups}, {router.groups_chosen} = {chosen}",
            expected=f"{router.groups} a divisor of {experts}, and {router.groups_chosen} at most that",
        )
