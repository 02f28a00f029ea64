"""Everything that is asked of `transformers` (or `timm`) about a model: its config, its class, its parameter names.

A model is never loaded to learn its names: they follow from its architecture file (`names`). Where no test holds that file
against the library, the model is built on the meta device, which holds shapes and no numbers.
Code that comes with a checkpoint is never run. Interfaces of `transformers` that may change between versions are touched
here, in `trainer_files` (Trainer's state), `engine/step.py` (a new model's fields) and `comparing/finetune.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import torch

from outgrow.errors import CheckpointError, near
from outgrow.models import timm_models
from outgrow.models.architecture import load_architecture, resolve
from outgrow.models.bounds import check_bounds
from outgrow.models.built import check_tensors
from outgrow.models.files import FOLDERS
from outgrow.models.late_activations import import_validators
from outgrow.models.model import Model
from outgrow.models.names import ModelNames, described_names, is_tested, parts_in_files
from outgrow.models.plain_sizes import plainly

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def config_of(model: torch.nn.Module) -> dict[str, Any]:
    """The config of a live model of transformers or timm, with its class and dtype."""
    cls = _own_class(model)
    if cls.__module__.startswith("timm."):
        config = timm_models.timm_config(model)
    else:
        config = config_dict(cast("PreTrainedModel", model).config)
    dtype = next(model.parameters()).dtype
    return config | {"architectures": [cls.__name__], "dtype": str(dtype).removeprefix("torch.")}


def unlike_config(model: torch.nn.Module) -> str | None:
    """A number of a live module, as a dropout's or an eps, that is not what the model's config says; None where all are."""
    if _own_class(model).__module__.startswith("timm."):
        return None
    built = dict(meta_model(config_of(model)).named_modules())
    for place, module in model.named_modules():
        said = vars(built[place]) if place in built else {}
        for name, value in vars(module).items():
            number = isinstance(said.get(name), float) and isinstance(value, int | float)
            if number and value != said[name] and name not in _MOVING:
                return f"{place}.{name} is {value}, and {said[name]} by the config"
    return None


_MOVING = ("attention_scaling",)
"""Numbers that a module sets itself while it runs: rotary positions that stretch."""


def model_type_of(model: torch.nn.Module) -> str:
    """The model type of a live model of transformers or timm.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model_type_of(GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=4, n_layer=1, n_head=2)))
    'gpt2'
    """
    if _own_class(model).__module__.startswith("timm."):
        return timm_models.timm_type(model)
    return str(cast("PreTrainedModel", model).config.model_type)


def _own_class(model: torch.nn.Module) -> type:
    """The class of a model; FSDP2 puts one of its own before it."""
    return next(cls for cls in type(model).__mro__ if not cls.__module__.startswith("torch.distributed."))


def config_dict(config: PreTrainedConfig) -> dict[str, Any]:
    """A config object as plain JSON values, sizes in plain words; the path that it was loaded from is left out."""
    content = json.loads(json.dumps(config.to_dict(), default=str))
    content.pop("_name_or_path", None)
    return plainly(cast(dict[str, Any], content))


def config_object(config: Mapping[str, Any]) -> PreTrainedConfig:
    """The `transformers` config object of `config`."""
    from transformers import CONFIG_MAPPING

    import_validators()
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        fix = "outgrow runs no code from a checkpoint; the model type must be one that transformers knows"
        raise CheckpointError(
            f"unknown model type {model_type!r}", expected=near(str(model_type), CONFIG_MAPPING), fix=fix
        )
    plain = _floats(dict(config))
    check_bounds(plain)
    try:
        return cast("PreTrainedConfig", CONFIG_MAPPING[model_type].from_dict(plain))
    except Exception as error:  # any: config classes check their own values, each with its own exceptions
        raise CheckpointError(f"the config of this {model_type} is not valid", got=error) from error


def default_fields(model_type: str | None) -> frozenset[str]:
    """Config fields that transformers gives a model type; with None, those that it gives every model.

    >>> sorted(default_fields("mixtral") - default_fields("mistral"))[:2]
    ['num_experts_per_tok', 'num_local_experts']
    """
    return frozenset(default_config(model_type)) | {"_name_or_path"}


@lru_cache(maxsize=64)
def default_config(model_type: str | None) -> Mapping[str, Any]:
    """The config that transformers gives a model type, and with None what it gives every model."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    import_validators()
    return config_dict(PreTrainedConfig() if model_type is None else CONFIG_MAPPING[model_type]())


def _floats(value: Any) -> Any:
    """Plain JSON values, the infinite numbers that transformers writes as maps read again."""
    if isinstance(value, dict):
        return (
            float(value["__float__"])
            if set(value) == {"__float__"}
            else {k: _floats(v) for k, v in value.items()}
        )
    return [_floats(one) for one in value] if isinstance(value, list) else value


def model_class(config: Mapping[str, Any]) -> type[PreTrainedModel]:
    """The class that `architectures` names; only classes of `transformers` itself."""
    import transformers

    names: Any = config.get("architectures") or ()
    if len(names) != 1 or not isinstance(names[0], str):
        fix = 'add e.g. "architectures": ["LlamaForCausalLM"] to config.json'
        raise CheckpointError(
            "config.json does not say which model class it is for", got=list(names), fix=fix
        )
    found = getattr(transformers, names[0], None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        fix = "outgrow runs no code from a checkpoint; use a class of transformers, or upgrade transformers"
        raise CheckpointError(
            f"unknown model class {names[0]!r}", expected="a model class of transformers", fix=fix
        )
    return found


def meta_model(config: Mapping[str, Any]) -> PreTrainedModel:
    """The model on the meta device: names and shapes, no numbers, no memory."""
    if timm_models.is_timm(config.get("model_type")):
        with torch.device("meta"):
            return cast("PreTrainedModel", timm_models.build_timm(config))
    config_value, cls = config_object(config), model_class(config)
    try:
        with torch.device("meta"):
            return cls(config_value)
    except Exception as error:  # any: sizes that do not fit raise whatever the model's code raises
        raise CheckpointError(f"{cls.__name__} cannot be built from this config", got=error) from error


def build_model(
    config: Mapping[str, Any], dtype: torch.dtype = torch.float32, like: torch.nn.Module | None = None
) -> PreTrainedModel:
    """A real model with fresh weights, its rotary tables in float32 as `from_pretrained` leaves them.

    It computes attention and experts by the code that the model `like` has chosen: packed sequences need theirs.
    """
    if timm_models.is_timm(config.get("model_type")):
        return cast("PreTrainedModel", timm_models.build_timm(config).to(dtype))
    made = config_object(config)
    if like is not None:
        chosen = cast("PreTrainedModel", like).config
        made._attn_implementation = _chosen(chosen, "_attn_implementation")
        made._experts_implementation = _chosen(chosen, "_experts_implementation")
    if not _can_group(resolve(config), dtype):
        made._experts_implementation = "eager"
    cls = model_class(config)
    try:
        model = cast("PreTrainedModel", cls._from_config(made, dtype=dtype))
    except Exception as error:  # any: as above
        raise CheckpointError(f"{cls.__name__} cannot be built from this config", got=error) from error
    if is_tested(config):  # what a growth of files takes from the file alone
        check_tensors(
            resolve(config), config, {name: tuple(one.shape) for name, one in model_tensors(model).items()}
        )
    return model


def _chosen(config: PreTrainedConfig, name: str) -> dict[str, Any]:
    """What a config, and each config inside it, has chosen, as transformers takes it."""
    inner = {key: one for key in config.sub_configs if (one := getattr(config, key, None)) is not None}
    return {"": getattr(config, name), **{key: _chosen(one, name) for key, one in inner.items()}}


def hollow_model(
    config: Mapping[str, Any], dtype: torch.dtype = torch.float32, like: torch.nn.Module | None = None
) -> PreTrainedModel:
    """The model with its parameters on the meta device and its buffers real: to be placed, cut and filled."""
    with _parameters_on_meta():
        return build_model(config, dtype, like)


def replace_parameters(
    module: torch.nn.Module, others: Mapping[torch.nn.Parameter, torch.nn.Parameter]
) -> None:
    """Put others in the place of parameters wherever a module has them; tied ones stay tied, which `to_empty` forgets."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter in others:
                part._parameters[name] = others[parameter]


def tied_names(module: torch.nn.Module) -> dict[str, str]:
    """Further names of parameters that have several: name -> first name."""
    owners = dict[int, str]()
    named = [(name, id(one)) for name, one in module.named_parameters(remove_duplicate=False)]
    return {name: first for name, number in named if (first := owners.setdefault(number, name)) != name}


def tie(module: torch.nn.Module, names: Mapping[str, str]) -> None:
    """Make parameters one again, by what `tied_names` said before a change of the modules made copies of them."""
    for name, first in names.items():
        place, _, last = name.rpartition(".")
        module.get_submodule(place).register_parameter(last, module.get_parameter(first))


def checkpoint_activations(model: torch.nn.Module) -> None:
    """Compute every layer's activations again in the backward pass; CheckpointError where the library cannot."""
    if _own_class(model).__module__.startswith("timm."):
        raise CheckpointError("activation checkpointing is for models of transformers", fix="leave it out")
    live: Any = model
    if hasattr(live, "activation_checkpointing_enable"):  # transformers 5.23; gradient_... goes with 6
        live.activation_checkpointing_enable({"use_reentrant": False})
    else:
        live.gradient_checkpointing_enable({"use_reentrant": False})


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Inside, every parameter of a new module goes to the meta device as it is registered, so nothing initializes it."""
    before = torch.nn.Module.register_parameter

    def register(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            hollow = parameter.detach().to("meta")
            parameter = torch.nn.Parameter(hollow, requires_grad=parameter.requires_grad)
        before(module, name, parameter)

    torch.nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = before  # type: ignore[method-assign]


def _can_group(model: Model, dtype: torch.dtype) -> bool:
    """Whether torch's grouped product, which transformers prefers, does these experts: no float64, rows of 16 bytes."""
    experts = {name for name, spec in model.axes.items() if spec.active is not None}
    stacked = [name for name, one in model.parameters.items() if experts & one.signature.axes("writes")]
    whole = all(size % 8 == 0 for name in stacked for size in model.shape(name)[1:])
    return not stacked or (whole and dtype != torch.float64)


@dataclass(frozen=True)
class _Asked:
    """A config as a key: equal where its text is."""

    text: str
    folders: str
    """Of architecture files of the user's own."""
    config: Mapping[str, Any] = field(compare=False)


def library_names(config: Mapping[str, Any]) -> ModelNames:
    """Names, shapes and ties of the model that the library builds from `config`, in the order of `named_parameters()`.

    Raises where no architecture file is of its type. What a growth of files needs follows from the file (`model_names`).

    Kept for the configs last asked for: every checkpoint of a run asks again, and a model of many layers takes seconds.
    """
    return _library_names(_Asked(json.dumps(config, default=repr), os.environ.get(FOLDERS, ""), config))


@lru_cache(maxsize=16)
def _library_names(asked: _Asked) -> ModelNames:
    config = asked.config
    architecture = load_architecture(str(config["model_type"]))
    model = meta_model(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    owner = {id(parameter): name for name, parameter in model.named_parameters()}
    described = resolve(config).parameters
    buffers = {
        name: tuple(buffer.shape)
        for name, buffer in saved_buffers(model).items()
        if name in described and described[name].spec.buffer
    }
    aliases = {
        name: owner[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name not in shapes
    }
    extra = [name for name in model.state_dict() if name not in {*shapes, *aliases, *buffers}]
    if extra:
        raise CheckpointError(
            f"{type(model).__name__} keeps state in buffers that its architecture file does not name",
            got=", ".join(extra[:5]),
            fix="describe them in the file as parameters with `buffer: true`",
        )
    prefix = getattr(model, "base_model_prefix", "")
    apart = {one.name: parts for one in described.values() if (parts := parts_in_files(one, shapes))}
    shapes |= buffers
    return ModelNames(
        shapes, aliases, prefix, architecture.ignored, architecture.disk, apart, frozenset(buffers)
    )


def tensor_plan(model: torch.nn.Module) -> dict[str, str]:
    """How transformers would cut a model's modules (or parameters) among the ranks of a tensor group: name -> its word for it.

    Rules are written for any layer (`model.layers.*.mlp.up_proj`); those that meet nothing are left out. Empty where it has none.
    """
    rules: Mapping[str, str] = getattr(model, "tp_plan", None) or {}
    names = [name for found in (model.named_modules(), model.named_parameters()) for name, _ in found]
    plan = {name: rules.get(re.sub(r"\.\d+(?=\.|$)", ".*", name)) for name in names}
    return {name: rule for name, rule in plan.items() if rule is not None}


def saved_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that a model saves with its parameters: state that no gradient moves."""
    return {
        f"{place}.{name}" if place else name: buffer
        for place, module in model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Everything that is saved of a model, tied weights once: parameters, then buffers."""
    return dict(model.named_parameters()) | saved_buffers(model)


def decay_names(model: PreTrainedModel) -> tuple[str, ...]:
    """The parameters that `Trainer` decays, in `named_parameters()` order: its optimizer's group 0."""
    from transformers import Trainer

    if type(model).__module__.startswith("timm."):
        fix = "save the format native or hub"
        raise CheckpointError(
            "Trainer's checkpoints are for models of transformers", got="a model of timm", fix=fix
        )
    decayed = set(Trainer.get_decay_parameter_names(cast(Any, None), model))
    return tuple(name for name, _ in model.named_parameters() if name in decayed)


def model_names(config: Mapping[str, Any]) -> ModelNames:
    """Names, shapes and ties of the model that `config` describes: by its file, where a test holds that, else by the library.

    Raises where no architecture file is of its type.
    """
    return described_names(resolve(config)) if is_tested(config) else library_names(config)
