"""The small model on which an architecture file is checked: the file's own example, filled with random numbers.

What is wrong in the example or with the class that the file names is told here, by its line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.errors import ArchitectureError, near
from outgrow.models.architecture import resolve
from outgrow.models.expressions import fields, got, size_of
from outgrow.models.library import build_model, config_dict, model_tensors
from outgrow.models.lines import line_of
from outgrow.models.model import Model, Parameter
from outgrow.models.spec import ArchitectureSpec

_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def example(spec: ArchitectureSpec) -> dict[str, Any]:
    """The full config of a file's example, defaults filled in by transformers."""
    import transformers

    if spec.example is None:
        raise ArchitectureError(
            f"{line_of(spec.model_type, ())} has no example to check it with",
            fix="add `example: {config: {hidden_size: 24, ...}, grow: {hidden_size: 42, ...}}`: sizes of a tiny model, all"
            " different, and odd ones to grow to",
        )
    settings = {**_TOKENS, "architectures": [spec.class_], **spec.example.config}
    try:
        made = transformers.AutoConfig.for_model(spec.model_type, **settings)
    except ValueError as error:
        where = line_of(spec.model_type, ["model_type"])
        raise ArchitectureError(
            f"{where}: transformers has no model type '{spec.model_type}'", got=error
        ) from None
    except Exception as error:  # config classes check their own values, each with its own exceptions
        where = line_of(spec.model_type, ["example", "config"])
        raise ArchitectureError(f"{where}: transformers does not accept example.config", got=error) from None
    _check_class(spec, type(made).__name__.removesuffix("Config"))
    _check_sizes(spec, config := config_dict(made))
    return config


def _check_class(spec: ArchitectureSpec, family: str) -> None:
    """Raise ArchitectureError where transformers has no class of this name; it has those of the family."""
    import transformers

    if not hasattr(transformers, spec.class_):
        known = [one for one in dir(transformers) if re.fullmatch(rf"{family}(For.*|.*Model)", one)]
        raise ArchitectureError(
            f"{line_of(spec.model_type, ['class'])}: class: transformers has no '{spec.class_}'",
            expected=near(spec.class_, known),
            fix="name the class of the model with its head",
        )


def _check_sizes(spec: ArchitectureSpec, config: Mapping[str, Any]) -> None:
    """Raise ArchitectureError for the first size in a file that its own example gives no value."""
    sizes = [(["axes", name, "size"], axis.size) for name, axis in spec.axes.items()]
    for keys, expression in (*sizes, (["layers", "count"], spec.layers.count)):
        try:
            size_of(expression, config)
        except ArchitectureError as error:
            told = f"{line_of(spec.model_type, keys)}: {'.'.join(keys)}: {error}"
            unknown = [one for one in sorted(fields(expression)) if got(config, one) is None]
            fix = f"{unknown[0]}: {near(unknown[0], config)}" if unknown else None
            raise ArchitectureError(told, fix=fix) from None


def tiny(config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """The model of a config in float64, every tensor random, norms, biases and buffers too, so that no zero hides a mistake."""
    model: nn.Module = build_model(config, dtype=torch.float64).double().eval()
    generator = torch.Generator().manual_seed(seed)
    tensors = model_tensors(model)
    with torch.no_grad():
        for name, parameter in resolve(config).parameters.items():
            noise = torch.randn(tensors[name].shape, generator=generator, dtype=torch.float64)
            tensors[name].copy_(_random(parameter, resolve(config), noise))
    return model


def _random(parameter: Parameter, model: Model, noise: Tensor) -> Tensor:
    dims = parameter.signature.dims
    if parameter.signature.is_gain:
        return 1 + 0.3 * noise - parameter.spec.plus
    reads = [place for place, dim in enumerate(dims) if dim.role == "reads"]
    if any(model.axes[name].is_table for place in reads for name in dims[place].axes):
        return noise
    width = 1
    for place in reads:
        width *= noise.shape[place]
    return noise * (1.5 / width**0.5 if reads else 0.3)


def inputs(model: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    """A small batch of what a model takes: tokens, an image, or a sound and tokens."""
    config: Any = model.config
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, int(getattr(text, "vocab_size", 4)), (3, 9), generator=generator)
    named = [value for name, value in config.to_dict().items() if name.endswith(("token_id", "token_index"))]
    for place in (value for value in named if isinstance(value, int) and value > 3):  # where an image stands
        tokens[tokens == place] = 3
    if model.main_input_name == "pixel_values":
        image = (3, config.num_channels, config.image_size, config.image_size)
        return {"pixel_values": torch.randn(image, generator=generator, dtype=torch.float64)}
    if model.main_input_name == "input_features":
        shape = (3, config.num_mel_bins, 2 * config.max_source_positions)
        sound = torch.randn(shape, generator=generator, dtype=torch.float64)
        return {"input_features": sound, "decoder_input_ids": tokens}
    if getattr(config, "is_encoder_decoder", False):
        return {"input_ids": tokens, "decoder_input_ids": tokens.flip(0)[:, :7]}
    return {"input_ids": tokens}


def doubled(model: Model, to: Mapping[str, Any]) -> dict[str, Any]:
    """The same sizes as `to`, each twice what it is: what `duplicate` and a LayerNorm can do."""
    return {name: 2 * int(_size_now(model, name)) for name in to}


def _size_now(model: Model, name: str) -> Any:
    """What a field of `example.grow` is before; None for no field of the config."""
    field = model.spec.aliases.get(name, name)
    return model.layers if field == model.spec.layers.count else got(model.config, field)


def check_example_grows(model: Model, to: Mapping[str, Any]) -> None:
    """An error where `example.grow` names no field of the config, or shrinks it."""
    for name, size in to.items():
        now = _size_now(model, name)
        if now is None or int(size) < int(now):
            raise ArchitectureError(
                f"{line_of(model.spec.model_type, ['example', 'grow', name])}: example.grow.{name} is no size that grows",
                got=f"{now} in example.config, {size} in example.grow",
                expected="a field of the config, and no less than it has",
            )
