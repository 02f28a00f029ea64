"""Architectures as data: from a model's config to the axes and signatures of every parameter.

One YAML file per model type says which axes each tensor writes and reads; this module reads it, and `resolve`
applies it to a config. Adding an architecture is adding a file (CONTRIBUTING, "add an architecture").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from itertools import groupby
from typing import Any

import yaml
from pydantic import ValidationError

from outgrow.algebra.axes import Signature, parse
from outgrow.errors import ArchitectureError, near
from outgrow.models.bounds import check_bounds
from outgrow.models.expressions import fields, size_of
from outgrow.models.model import Model, Parameter
from outgrow.models.spec import ArchitectureSpec, ParameterSpec


def known() -> tuple[str, ...]:
    """Model types that have an architecture file."""
    folder = files("outgrow") / "architectures"
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml")))


@lru_cache(maxsize=64)
def load(model_type: str) -> ArchitectureSpec:
    """The architecture file of a model type.

    >>> load("gpt2").class_
    'GPT2LMHeadModel'
    """
    if model_type not in known():
        raise ArchitectureError(
            f"no architecture file for model type '{model_type}' ({near(model_type, known())})",
            fix=f"add src/outgrow/architectures/{model_type}.yaml: see CONTRIBUTING.md, 'Add an architecture'",
        )
    try:
        return ArchitectureSpec.model_validate(_raw(model_type))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArchitectureError(f"architecture file {model_type}.yaml: {where}: {first['msg']}") from None


def resolve(config: Mapping[str, Any]) -> Model:
    """The axes, sizes and parameters of the model that this config describes.

    >>> model = resolve({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11})
    >>> model.shape("transformer.h.0.attn.c_attn.weight")
    (6, 18)
    """
    spec = load(str(config.get("model_type")))
    check_bounds(config)
    _check_requirements(spec.model_type, spec.requires, config)
    sizes = {name: size_of(axis.size, config) for name, axis in spec.axes.items()}
    none = type(config.get(spec.layers.count)) is int and config[spec.layers.count] == 0
    layers = 0 if none else size_of(spec.layers.count, config)
    for expression in spec.whole:
        size_of(expression, config)
    tied: dict[str, list[Signature]] = {}
    owners: list[tuple[str, Signature, ParameterSpec]] = []
    for pattern, parameter in spec.parameters.items():
        if parameter.when is not None and not config.get(parameter.when):
            continue
        if parameter.of_class not in (None, *(config.get("architectures") or [spec.class_])):
            continue
        if parameter.tied_to is not None and config.get(parameter.when_tied or ""):
            tied.setdefault(parameter.tied_to, []).append(parse(parameter.axes))
        else:
            owners.append((pattern, parse(parameter.axes), parameter))
    parameters: dict[str, Parameter] = {}
    counts = {**sizes, "L": layers}
    for stack, group in groupby(owners, key=lambda owner: _stack(owner[0])):
        patterns = list(group)
        for place in range(counts[stack]) if stack else (0,):  # layer by layer, as a model holds them
            for pattern, signature, one in patterns:
                name = pattern.replace(f"{{{stack}}}", str(place))
                layer, own = (place, pattern) if stack == "L" else (None, name)
                twins = tuple(tied.get(name, ()))
                parameters[name] = Parameter(name, own, layer, signature, twins, one.at, one.apart)
    return Model(spec, dict(config), sizes, parameters)


def _stack(pattern: str) -> str | None:
    """What counts the modules that this pattern names: `L`, the layers, or an axis that cannot grow."""
    found = re.search(r"{(\w+)}", pattern)
    return found[1] if found else None


def growable(spec: ArchitectureSpec) -> dict[str, str]:
    """Config fields that `grow` may change, with what they mean.

    >>> sorted(growable(load("llama")))[:3]
    ['head_dim', 'hidden_size', 'intermediate_size']
    """
    found: dict[str, str] = {spec.layers.count: "layers"}
    for name, axis in spec.axes.items():
        if axis.can_grow:
            for one in fields(axis.size):
                found.setdefault(one, name)
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
    spec = load(model_type)
    for name, parameter in spec.parameters.items():
        signature = parse(parameter.axes)
        written = {spec.axes[axis].through for axis in signature.axes("writes")}
        if "lookup" in written and signature.axes("reads"):
            return name.partition(".")[0]
    return None


def longest_sequence(config: Mapping[str, Any]) -> int | None:
    """Tokens that a model has positions for, where its config says so.

    >>> longest_sequence({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1})
    512
    """
    found = config.get("max_position_embeddings", config.get("n_positions"))
    if found is None:
        return None
    behind = load(str(config["model_type"])).positions_behind_padding
    return int(found) - (int(config.get("pad_token_id") or 0) + 1 if behind else 0)


def fixed(spec: ArchitectureSpec) -> dict[str, str]:
    """Config fields that count units of axes that cannot grow, and of no other, with the axis.

    >>> fixed(load("vit"))["num_channels"]
    'pixels'
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
        if config.get(name, wanted) != wanted:
            raise ArchitectureError(
                f"{model_type} with {name} = {config[name]} is not described by its architecture file",
                expected=f"{name} = {wanted}",
            )


def _raw(model_type: str) -> dict[str, Any]:
    """The file's content, with what it extends and renames worked in."""
    data: dict[str, Any] = yaml.safe_load(
        (files("outgrow") / "architectures" / f"{model_type}.yaml").read_text()
    )
    parent = data.pop("extends", None)
    renames = data.pop("rename", {})
    if parent is None:
        return data
    merged = _raw(parent)
    for key, value in data.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = {
                name: entry for name, entry in {**merged[key], **value}.items() if entry is not None
            }
        else:
            merged[key] = value

    def renamed(text: str) -> str:
        for old, new in renames.items():
            if text.startswith(old):
                return str(new) + text[len(old) :]
        return text

    if renames:
        merged["parameters"] = {
            renamed(name): {**entry, **({"tied_to": renamed(entry["tied_to"])} if "tied_to" in entry else {})}
            for name, entry in merged["parameters"].items()
        }
        merged["ignored"] = [renamed(pattern) for pattern in merged.get("ignored", [])]
    return merged
