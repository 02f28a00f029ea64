"""A model without its head, as `BertModel` beside `BertForMaskedLM`: what every checkpoint of sentence embeddings holds.

Its architecture follows from the file of its type:

    parameters    those inside the module that holds the layers, under names without it, and those that the file calls `bare` (poolers)
    outputs       the axes that the head reads, and those that the bare parameters write
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from outgrow.algebra.axes import Role, parse
from outgrow.models.model import Model
from outgrow.models.spec import ArchitectureSpec, AxisSpec, ParameterSpec

_HEAD = re.compile(r"(For[A-Z]\w*|LMHeadModel)$")


def bare_class(spec: ArchitectureSpec) -> str | None:
    """What transformers calls the model of this type without its head; None where the type's own class has none.

    >>> from outgrow.models.architecture import load_architecture
    >>> [bare_class(load_architecture(name)) for name in ("gpt2", "bert", "gemma3_text", "cait")]
    ['GPT2Model', 'BertModel', 'Gemma3TextModel', None]
    """
    name, heads = _HEAD.subn("Model", spec.class_)
    return spec.bare_class or (name if heads else None)


def without_head(spec: ArchitectureSpec) -> ArchitectureSpec:
    """The architecture of the bare class of a model type.

    >>> from outgrow.models.architecture import load_architecture
    >>> next(iter(without_head(load_architecture("llama")).parameters))
    'embed_tokens.weight'
    """
    prefix, inside = _inside(spec)
    head = [one for name, one in spec.parameters.items() if name not in inside]
    kept = {name.removeprefix(prefix): _untied(one, prefix, inside) for name, one in inside.items()}
    made = _axes(head, "writes")
    (hidden,) = (name for name in _axes(head, "reads") - made if spec.axes[name].of not in made)
    outputs = {"last_hidden_state": hidden}
    outputs |= zip(
        ["pooler_output"], _axes([one for one in kept.values() if one.bare], "writes"), strict=False
    )
    return spec.model_copy(
        update={
            "class_": bare_class(spec),
            "prefix": prefix.removesuffix(".") or spec.prefix,
            "objective": "features",
            "parameters": kept,
            "axes": used_axes(spec, kept, outputs.values()),
            "outputs": outputs,
        }
    )


def head_names(whole: Model, bare: Model) -> tuple[str, ...]:
    """Parameters of a model that the same model without its head lacks: none where the head is tied to the embeddings."""
    held = set(bare.parameters)
    return tuple(name for name in whole.parameters if not held & {name, name.partition(".")[2]})


def _inside(spec: ArchitectureSpec) -> tuple[str, Mapping[str, ParameterSpec]]:
    """What the names of all that is no head begin with, and all that."""
    stack = next(name for name in spec.parameters if "{L}" in name).partition(".")[0] + "."
    inside = {name: one for name, one in spec.parameters.items() if name.startswith(stack)}
    if not any(_is_looked_up(spec, one) for name, one in spec.parameters.items() if name not in inside):
        return stack, inside
    # T5: what feeds the stack stands beside it, and both beside the head, in either class
    return "", {name: one for name, one in spec.parameters.items() if not _scores_tokens(spec, one)}


def _is_looked_up(spec: ArchitectureSpec, parameter: ParameterSpec) -> bool:
    """Whether a parameter is a table of tokens."""
    return any(spec.axes[axis].is_lookup for axis in parse(parameter.axes).axes("reads"))


def _scores_tokens(spec: ArchitectureSpec, parameter: ParameterSpec) -> bool:
    """Whether a parameter turns activations into scores of tokens."""
    signature = parse(parameter.axes)
    return bool(signature.axes("reads")) and any(
        spec.axes[axis].is_lookup for axis in signature.axes("writes")
    )


def _untied(one: ParameterSpec, prefix: str, inside: Collection[str]) -> ParameterSpec:
    """A parameter as the bare model has it: tied to none of the head's."""
    owner = one.tied_to
    tied_to = owner.removeprefix(prefix) if owner is not None and owner in inside else None
    return one.model_copy(update={"tied_to": tied_to})


def _axes(parameters: Iterable[ParameterSpec], role: Role) -> frozenset[str]:
    return frozenset[str]().union(*(parse(one.axes).axes(role) for one in parameters))


def used_axes(
    spec: ArchitectureSpec, parameters: Mapping[str, ParameterSpec], outputs: Iterable[str]
) -> Mapping[str, AxisSpec]:
    """The axes that these parameters and outputs have, those that count modules, and those that they follow."""
    wanted = {axis for one in parameters.values() for dim in parse(one.axes).dims for axis in dim.axes}
    wanted |= {name for pattern in parameters for name in re.findall(r"{(\w+)}", pattern)} - {"L"}
    wanted |= set(outputs)
    while (
        more := {
            other
            for name in wanted
            for other in (spec.axes[name].of, spec.axes[name].with_, spec.axes[name].like)
            if other is not None
        }
        - wanted
    ):
        wanted |= more
    return {name: one for name, one in spec.axes.items() if name in wanted}
