"""Models of `timm`, which have no config of their own: one is read off a live module, and a module is built from it.

    timm_config(module) -> config.json        build_timm(config) -> module        timm_config(build_timm(config)) == config

`timm` is optional (`pip install outgrow[timm]`) and only imported here, when such a model is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import nn

from outgrow.errors import CheckpointError, near
from outgrow.models.architecture import load_architecture
from outgrow.models.files import file_of

_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "depth_token_only",
    "num_attention_heads",
    "intermediate_size",
    "class_intermediate_size",
    "image_size",
    "patch_size",
    "num_channels",
    "num_labels",
)
_DEFAULTS: dict[str, Any] = {
    "qkv_bias": True,
    "layer_norm_eps": 1e-6,
    "drop_rate": 0.0,
    "pos_drop_rate": 0.0,
    "proj_drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "drop_path_rate": 0.0,
}
_KEPT = ("model_type", "architectures", "dtype", "transformers_version", "initializer_range")


def is_timm(model_type: object) -> bool:
    """Whether the architecture file says that this model is timm's."""
    if not isinstance(model_type, str) or file_of(model_type) is None:
        return False
    return load_architecture(model_type).library == "timm"


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its defaults; a missing, unknown or wrong field is an error."""
    unknown = [name for name in config if name not in (*_SIZES, *_DEFAULTS, *_KEPT)]
    if unknown:
        names = (*_SIZES, *_DEFAULTS)
        raise CheckpointError(
            f"unknown field '{unknown[0]}' in the config of a cait ({near(unknown[0], names)})"
        )
    found = {"architectures": ["Cait"], **_DEFAULTS, **config}
    for name in _SIZES:
        if type(found.get(name)) is not int or found[name] <= 0:
            raise CheckpointError(
                f"'{name}' is not a size of a cait",
                got=repr(found.get(name)),
                expected="a positive whole number",
            )
    for name in _DEFAULTS:
        wanted: tuple[type, ...] = (bool,) if name == "qkv_bias" else (float, int)
        if type(found[name]) not in wanted or found[name] < 0:
            raise CheckpointError(
                f"'{name}' is no option of a cait", got=repr(found[name]), expected=wanted[0].__name__
            )
    if found["architectures"] != ["Cait"]:
        raise CheckpointError("unknown class of timm", got=found["architectures"], expected=["Cait"])
    return found


def published(content: Mapping[str, Any]) -> dict[str, Any]:
    """The config behind timm's own `config.json`, which names a function of timm: `{"architecture": "cait_xxs24_224", ...}`."""
    _cait()
    from timm import create_model

    name, options = str(content["architecture"]), content.get("model_args") or {}
    try:
        if not name.isidentifier():  # timm fetches "hf-hub:..." from the net
            raise ValueError("not a name of timm's")
        with torch.device("meta"):
            module = create_model(name, pretrained=False, num_classes=content["num_classes"], **options)
    except Exception as error:  # any: names, options and sizes are the file's, the exceptions timm's
        raise CheckpointError(f"timm's '{name}' cannot be built from its config.json", got=error) from error
    return timm_config(module)


def build_timm(config: Mapping[str, Any]) -> nn.Module:
    """A module with fresh weights, on the device of the surrounding `torch.device`, in float32."""
    c = complete(config)
    width = c["hidden_size"]
    module: nn.Module = _cait().Cait(
        img_size=c["image_size"],
        patch_size=c["patch_size"],
        in_chans=c["num_channels"],
        num_classes=c["num_labels"],
        embed_dim=width,
        depth=c["num_hidden_layers"],
        depth_token_only=c["depth_token_only"],
        num_heads=c["num_attention_heads"],
        mlp_ratio=(c["intermediate_size"] + 0.5) / width,  # timm rounds width * ratio down
        mlp_ratio_token_only=(c["class_intermediate_size"] + 0.5) / width,
        qkv_bias=c["qkv_bias"],
        norm_layer=partial(nn.LayerNorm, eps=c["layer_norm_eps"]),
        **{name: c[name] for name in _DEFAULTS if name.endswith("_rate")},
    )
    return module


def timm_type(module: nn.Module) -> str:
    """The model type of a live module. Raises CheckpointError for a class that no file describes."""
    if type(module) is not _cait().Cait:
        raise CheckpointError(
            f"no architecture file describes timm's {type(module).__name__}",
            expected="Cait",
            fix="use a cait_* model",
        )
    return "cait"


def timm_config(module: nn.Module) -> dict[str, Any]:
    """The config of a live module. Raises CheckpointError where the config cannot say what the module is."""
    live: Any = module
    model_type = timm_type(module)
    try:
        block, token = live.blocks[0], live.blocks_token_only[0]
        config = {
            "model_type": model_type,
            "hidden_size": live.embed_dim,
            "num_hidden_layers": len(live.blocks),
            "depth_token_only": len(live.blocks_token_only),
            "num_attention_heads": block.attn.num_heads,
            "intermediate_size": block.mlp.fc1.out_features,
            "class_intermediate_size": token.mlp.fc1.out_features,
            "image_size": live.patch_embed.img_size[0],
            "patch_size": live.patch_embed.patch_size[0],
            "num_channels": live.in_chans,
            "num_labels": live.num_classes,
            "qkv_bias": block.attn.qkv.bias is not None,
            "layer_norm_eps": float(live.norm.eps),
            "drop_rate": float(live.head_drop.p),
            "pos_drop_rate": float(live.pos_drop.p),
            "proj_drop_rate": float(block.attn.proj_drop.p),
            "attn_drop_rate": float(block.attn.attn_drop.p),
            "drop_path_rate": float(getattr(block.drop_path, "drop_prob", 0.0) or 0.0),
        }
        with torch.device("meta"):
            again = build_timm(config)
        plain = live.global_pool == "token" and type(block.mlp.act) is nn.GELU
    except (AttributeError, IndexError, TypeError, AssertionError) as error:
        raise _unlike(error) from error
    shapes, wanted = (
        {name: tuple(parameter.shape) for name, parameter in one.named_parameters()}
        for one in (module, again)
    )
    if shapes != wanted or not plain:
        raise _unlike(sorted(set(shapes) ^ set(wanted))[:3] or "another activation, pooling or image shape")
    return complete(config)


def _unlike(found: object) -> CheckpointError:
    return CheckpointError(
        "this Cait is built unlike those that cait.yaml describes",
        got=found,
        expected="square images, GELU, class-token pooling, a head, timm's own blocks",
    )


def _cait() -> ModuleType:
    try:
        from timm.models import cait
    except (
        ImportError,
        RuntimeError,
    ) as error:  # RuntimeError: a torchvision that does not belong to this torch
        raise CheckpointError(
            "cait models need timm, which cannot be imported",
            got=error,
            fix="pip install -e '.[timm]' in outgrow's clone, with a torchvision built for your torch",
        ) from error
    module: ModuleType = cait
    return module
