"""Conversions as data: one model type described again as another, exactly, at sizes where both are the same model.

A file per edge (`conversions/llama-mixtral.yaml`) says what becomes of every config field and of every tensor:

    tensor' = fill,  or  [ pairs( source ‖ source ‖ ... ) ]        ‖ along the first dimension; [ ] adds one of one unit

Nothing grows: the entries move, and an optimizer's moments move with them. A growth may follow (`outgrow grow --as`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from outgrow.errors import ArchitectureError, GrowthError, near
from outgrow.files.mistakes import explain
from outgrow.models.agreement import check_config
from outgrow.models.architecture import load_architecture, resolve
from outgrow.models.bare import bare_class
from outgrow.models.expressions import size_of
from outgrow.models.files import folders, known, read
from outgrow.models.library import config_dict, config_object, default_fields
from outgrow.models.model import Model, Parameter

_SEPARATOR = "-"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class TensorRule(_Strict):
    """How one tensor of the target is made. Names are those inside a layer (`mlp.up_proj.weight`)."""

    from_: tuple[str, ...] = Field((), alias="from")
    """Tensors of the source, one after the other along the first dimension."""
    new: bool = False
    """Whether a first dimension of one unit is added."""
    pairs: str | None = None
    """Size of a head whose rotary halves are put side by side: 0 h 1 h+1 ... for rows 0 to 2h - 1."""
    fill: Literal["random"] | float | None = None
    """What a tensor without a source holds: a number, or N(0, initializer_range²)."""
    like: str | None = None
    """The tensor of the source whose optimizer group and slots a filled one shares."""


class Power(_Strict):
    """A config field as a power of a size."""

    of: str
    power: float


class ConversionSpec(_Strict):
    """One conversion file. Every field of both configs is named in it, or belongs to every model."""

    from_: str = Field(alias="from")
    to: str
    requires: dict[str, Any] = {}
    """Fields of the source that the target lacks, and the value at which they change nothing."""
    drop: tuple[str, ...] = ()
    """Fields of the source that change nothing."""
    keep: tuple[str, ...]
    """Fields carried by name."""
    config: dict[str, Any] = {}
    """Fields of the target that are set."""
    derive: dict[str, str | Power] = {}
    """Fields of the target worked out from the source's."""
    per_layer: dict[str, Any] = {}
    """Lists of the target with the same entry for every layer."""
    parameters: dict[str, TensorRule] = {}


@dataclass(frozen=True)
class Made:
    """One tensor of the target: its rule, and the source tensors in its own layer."""

    rule: TensorRule
    sources: tuple[str, ...]
    group: str
    """The source tensor whose place in the optimizer it takes."""


@dataclass(frozen=True)
class Conversion:
    """A conversion of one model: both models, and how every tensor of the target is made."""

    spec: ConversionSpec
    small: Model
    large: Model
    tensors: Mapping[str, Made] = field(hash=False)

    @property
    def config(self) -> Mapping[str, Any]:
        """The target's full config."""
        return self.large.config

    def describe(self) -> dict[str, Any]:
        """What is written beside the converted state: enough to convert again."""
        return {
            "conversion": {"from": self.spec.from_, "to": self.spec.to},
            "model_type": self.spec.to,
            "parameters": [self.small.num_parameters, self.large.num_parameters],
        }


def _folders() -> list[Traversable]:
    """Folders of conversion files: `conversions` in each of the user's folders of architecture files, then outgrow's own."""
    own = [folder / "conversions" for folder in folders()[:-1]]
    return [*(folder for folder in own if folder.is_dir()), files("outgrow") / "conversions"]


def edges() -> tuple[tuple[str, str], ...]:
    """(from, to) of every conversion that has a file.

    >>> ("llama", "mixtral") in edges()
    True
    """
    names = {entry.name for folder in _folders() for entry in folder.iterdir()}
    return tuple(sorted(_edge(name.removesuffix(".yaml")) for name in names if name.endswith(".yaml")))


def _edge(name: str) -> tuple[str, str]:
    """(from, to) of a file's name. A model type may have a `-` itself (`xlm-roberta-modernbert`).

    Raises ArchitectureError where the name can be read in no way, or in several.
    """
    words, types = name.split(_SEPARATOR), known()
    ways = [(_SEPARATOR.join(words[:cut]), _SEPARATOR.join(words[cut:])) for cut in range(1, len(words))]
    if len(ways) > 1:
        ways = [way for way in ways if set(way) <= set(types)]
    if len(ways) != 1:
        raise ArchitectureError(
            f"{name}.yaml is no name of a conversion file",
            got=" or ".join(" to ".join(way) for way in ways)
            or f"no two model types joined by '{_SEPARATOR}'",
            expected=f"FROM{_SEPARATOR}TO.yaml, both with an architecture file where one of them has a '{_SEPARATOR}'",
            fix="rename it, or move it out of the folder `conversions`",
        )
    return ways[0]


def load_conversion(source: str, target: str) -> ConversionSpec:
    """The conversion file of an edge.

    Raises GrowthError where there is none, naming the targets that there are.

    >>> load_conversion("llama", "mixtral").config["num_local_experts"]
    1
    """
    targets = [to for from_, to in edges() if from_ == source]
    if target not in targets:
        raise GrowthError(
            f"no conversion leads from {source} to '{target}'",
            expected=near(target, targets) if targets else f"none leads from {source}",
            fix="write one: see docs/reference/conversions.md, 'A conversion of your own'",
        )
    name = f"{source}{_SEPARATOR}{target}.yaml"
    path = next(folder / name for folder in _folders() if (folder / name).is_file())
    content = read(path)
    try:
        return ConversionSpec.model_validate(content)
    except ValidationError as error:
        raise ArchitectureError(explain(error, content, f"conversion file {path}", ConversionSpec)) from None


def conversion(config: Mapping[str, Any], target: str) -> Conversion:
    """The conversion of the model that a config describes, checked in full: fields, names and shapes, no tensor read.

    Raises GrowthError where no file leads there, or the model has something that the target cannot say.

    >>> from transformers import LlamaConfig
    >>> dense = LlamaConfig(hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=11,
    ...     bos_token_id=1, eos_token_id=2)
    >>> found = conversion(dense.to_dict(), "mixtral")
    >>> found.large.shape("model.layers.0.mlp.experts.gate_up_proj")
    (1, 24, 8)
    """
    spec = load_conversion(str(config.get("model_type")), target)
    small = resolve(config)
    full = config_dict(config_object(_fields(spec, small)))
    large = resolve(full)
    check_config(large, full)
    rules = dict(spec.parameters)
    tensors = {name: _made(small, one, rules) for name, one in large.parameters.items()}
    used = {source for one in tensors.values() for source in one.sources}
    lost = sorted(set(small.parameters) - used)
    if lost:
        raise GrowthError(
            f"{target} has no place for tensors of this {spec.from_}",
            got=", ".join(lost[:3]),
            expected="none left",
        )
    found = Conversion(spec, small, large, tensors)
    _check_shapes(found)
    return found


def _fields(spec: ConversionSpec, small: Model) -> dict[str, Any]:
    """The target's config: every field is carried, set or worked out by name, and no other."""
    config, every = small.config, default_fields(None)
    own, theirs = default_fields(spec.from_), default_fields(spec.to)
    for name, wanted in spec.requires.items():
        *outer, key = name.split(".")
        owner: Any = config if not outer else config.get(outer[0]) or {}
        if owner.get(key, wanted) != wanted:
            why = "reads it in another way" if outer else "has no such field"
            raise GrowthError(
                f"a {spec.from_} with {name} = {owner[key]} is no {spec.to}: the target {why}",
                got=owner[key],
                expected=f"{name} = {wanted}",
            )
    made: dict[str, Any] = {}
    for name, value in config.items():
        set_here = name in spec.config or name in spec.derive or name in spec.per_layer
        if name in spec.keep or (name in every and not set_here) or (name not in own and name not in theirs):
            made[name] = value
        elif not set_here and name not in spec.requires and name not in spec.drop:
            raise _unnamed(spec, name, "has")
    made |= spec.config
    for name, wanted in spec.derive.items():
        made[name] = _derived(wanted, config)
    made |= {name: [entry] * small.layers for name, entry in spec.per_layer.items()}
    missing = sorted(theirs - set(made) - every)
    if missing:
        raise _unnamed(spec, missing[0], "wants")
    target = load_architecture(spec.to)
    named = bare_class(target) if small.spec.outputs else target.class_
    return {**made, "model_type": spec.to, "architectures": [named]}


def _derived(wanted: str | Power, config: Mapping[str, Any]) -> int | float:
    if isinstance(wanted, str):
        return size_of(wanted, config)
    return float(size_of(wanted.of, config) ** wanted.power)


def _unnamed(spec: ConversionSpec, name: str, verb: str) -> ArchitectureError:
    owner = spec.from_ if verb == "has" else spec.to
    return ArchitectureError(
        f"{owner} {verb} a config field '{name}' that its conversion file does not name",
        fix=f"name it in src/outgrow/conversions/{spec.from_}{_SEPARATOR}{spec.to}.yaml (keep, config, drop or requires)",
    )


def _made(small: Model, parameter: Parameter, rules: Mapping[str, TensorRule]) -> Made:
    """How a tensor of the target is made: by its rule, or of the tensor of the same name."""

    def placed(tail: str) -> str:
        if parameter.layer is None:
            return tail
        return f"{small.layer_modules[parameter.layer]}.{tail}"

    rule = rules.get(parameter.tail) or TensorRule.model_validate({"from": (parameter.tail,)})
    sources = tuple(placed(tail) for tail in rule.from_)
    group = sources[0] if sources else placed(rule.like or "")
    for name in (*sources, group):
        if name not in small.parameters:
            raise GrowthError(
                f"this {small.spec.model_type} has no tensor '{name}', of which {parameter.name} would be made",
                fix=f"name {parameter.tail} in the conversion file, with what it begins as",
            )
    return Made(rule, sources, group)


def _check_shapes(found: Conversion) -> None:
    for name, made in found.tensors.items():
        if not made.sources:
            continue
        shapes = [found.small.shape(source) for source in made.sources]
        whole = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        got = (1, *whole) if made.rule.new else whole
        if got != found.large.shape(name) or any(shape[1:] != shapes[0][1:] for shape in shapes):
            raise GrowthError(
                f"{name} of the {found.spec.to} has another shape than what it would be made of",
                got=" and ".join(map(str, shapes)),
                expected=found.large.shape(name),
            )


def head_size(made: Made, small: Model) -> int | None:
    """Rows of one head whose rotary halves are put side by side; None where the order stays."""
    return None if made.rule.pairs is None else size_of(made.rule.pairs, small.config)
