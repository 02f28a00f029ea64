"""`config.json` and other JSON files of a checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from outgrow.errors import CheckpointError
from outgrow.files.atomic import json_text
from outgrow.files.reading import check_regular, parse_json
from outgrow.models import timm_models
from outgrow.models.library import config_dict, config_object
from outgrow.store.dcp.kinds import is_sharded_folder, refuse_unreadable
from outgrow.store.dcp.olmo_config import is_olmo_config, llama_config
from outgrow.store.foreign import refuse_foreign
from outgrow.store.hub import local_folder

DROPPED: Mapping[str, str] = {
    "auto_map": "names code of the small model, which outgrow neither runs nor carries",
    "quantization_config": "the weights are not quantised",
    "compression_config": "the weights are not quantised",
}
"""Fields of a `config.json` that do not hold for what outgrow writes, and why."""


def read_json(path: Path) -> Any:
    """The contents of a JSON file; a `CheckpointError` that names the line where it is not JSON."""
    check_regular(path, CheckpointError)
    try:
        return parse_json(path.read_bytes(), str(path), CheckpointError)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read", got=error.strerror) from error


def load_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder as plain JSON values, with the defaults of its config class filled in.

    Trainers do not write it into their sharded checkpoints: there, that of the folder above holds. OLMo-core's own is
    read as transformers' model of the same function. A name of the hub is fetched.
    """
    folder = local_folder(folder)
    refuse_foreign(folder)
    path = _place(folder)
    if not path.is_file():
        refuse_unreadable(folder)
        fix = "give a folder written by save_pretrained, by Trainer or by outgrow"
        if is_sharded_folder(folder):
            fix = f"put the model's config.json, as transformers writes it, into {folder} or the folder above"
        elif inside := _states_inside(folder):
            fix = f"give a folder inside it: {inside[-1]}"
        raise CheckpointError(f"{folder} is not a model folder: it has no config.json", fix=fix)
    content = read_json(path)
    if (
        isinstance(content, dict)
        and isinstance(content.get("architecture"), str)
        and "model_type" not in content
    ):
        return timm_models.published(content)
    if is_olmo_config(content):
        content = llama_config(content)
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise CheckpointError(
            f"{path} does not name a model type", expected='a JSON object with "model_type"'
        )
    if timm_models.is_timm(content["model_type"]):
        return timm_models.complete(content)
    return config_dict(config_object({name: content[name] for name in content if name not in DROPPED}))


def raw_config(folder: Path) -> dict[str, Any]:
    """`config.json` as it stands in the file, without defaults; `load_config` has looked at it before."""
    return cast(dict[str, Any], read_json(_place(folder)))


def _states_inside(folder: Path) -> list[Path]:
    """Model folders in a run's folder, the last one last: those of a Trainer, or `final` and the stages of `outgrow train`."""
    found = [one.parent for one in folder.glob("*/config.json")]
    return sorted(found, key=lambda path: (path.name == "final", int(re.sub(r"\D", "", path.name) or 0)))


def _place(folder: Path) -> Path:
    above = folder.parent / "config.json"
    alone = not (folder / "config.json").is_file() and is_sharded_folder(folder)
    return above if alone and above.is_file() else folder / "config.json"


def config_text(config: Mapping[str, Any]) -> str:
    """`config.json` in the short form that `save_pretrained` writes, without the class's defaults.

    Where the short form would not read as the same config, all of it.
    """
    if timm_models.is_timm(config.get("model_type")):
        return json_text(config)
    text = config_object(config).to_json_string(use_diff=True)
    return text if config_dict(config_object(json.loads(text))) == config else json_text(config)
