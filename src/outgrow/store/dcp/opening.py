"""A sharded checkpoint of any trainer, as a training state: recognised by what lies in the folder, read by its table of names.

dcp          ours: .metadata and *.distcp, the rest as JSON beside them; also one folder that a plain FSDP2 loop saved, with the
             words of wrappers (`module.`, `_orig_mod.`), under `app.`, and with `optim.` for `optimizer.`
accelerate   pytorch_model_fsdp_0/ and optimizer_0/, or pytorch_model_fsdp.bin and optimizer.bin
torchtitan   step-N/
olmo-core    stepN/model_and_optim/
megatron     torch_dist: weights only
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from outgrow.algebra.slots import SLOTS
from outgrow.errors import CheckpointError
from outgrow.models.library import model_names
from outgrow.models.names import ModelNames
from outgrow.store import native
from outgrow.store.checkpoint import read_trainer_records
from outgrow.store.contents import Contents, OptimizerInfo, ParamGroup, Unread
from outgrow.store.dcp.folder import DcpFolder, Keyed, PlainFolder
from outgrow.store.dcp.naming import Address, Naming, naming
from outgrow.store.dcp.source import DcpPlace, DcpSource
from outgrow.store.lineage import Lineage
from outgrow.store.optimizer_file import option
from outgrow.store.optimizer_rules import name_from_options, step_count
from outgrow.store.pickled import load_plain
from outgrow.store.safetensors_folder import GROWN_DTYPES, LINEAGE, match_names, some

_BY_KEYS = ("torchtitan", "olmo-core", "megatron")


def open_sharded(folder: Path, config: dict[str, Any]) -> Contents:
    """Open a sharded checkpoint; names, shapes, groups and steps are checked, no tensor is read."""
    names = model_names(config)
    if (folder / native.MANIFEST).is_file():
        return _open_ours(folder, config, names)
    if (folder / "pytorch_model_fsdp.bin").is_file():
        return _open(naming("accelerate"), *_whole(folder), folder, config, names)
    if (folder / "pytorch_model_fsdp_0").is_dir():
        optimizer = DcpFolder.open(folder / "optimizer_0") if (folder / "optimizer_0").is_dir() else None
        weights = DcpFolder.open(folder / "pytorch_model_fsdp_0")
        return _open(naming("accelerate"), weights, optimizer, folder, config, names)
    one = DcpFolder.open(folder / "model_and_optim" if (folder / "model_and_optim").is_dir() else folder)
    table = _by_keys(one, config)
    one = _plainly_named(one) if table.trainer == "dcp" else one
    return _open(table, one, one, folder, config, names)


def _plainly_named(folder: DcpFolder) -> DcpFolder:
    """The folder of a plain loop under the keys of ours: without what wrappers add, and as PyTorch's own tutorial nests them."""
    named = {_plain_key(key): item for key, item in folder.items.items()}
    return replace(folder, items=named) if len(named) == len(folder.items) else folder


def _plain_key(key: str) -> str:
    """A key of a plain loop as it is in ours.

    >>> _plain_key("app.model.module._orig_mod.lm_head.weight"), _plain_key("optim.param_groups.0.lr")
    ('model.lm_head.weight', 'optimizer.param_groups.0.lr')
    """
    key = re.sub(r"^(app|state)\.(?=(model|optim(izer)?)\.)", "", key)
    key = re.sub(r"^optim\.", "optimizer.", key)
    key = re.sub(r"^(model\.|optimizer\.state\.)(module\.)+", r"\1", key)
    return re.sub(r"(?<=\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.(module\.)*", "", key)


def _is_numbered(table: Naming, folder: Keyed) -> bool:
    """Whether the entries of the optimizer are called 0, 1, ..., as `optimizer.state_dict()` by itself calls them."""
    start = table.state.partition("{")[0]
    return any(
        key.removeprefix(start).partition(".")[0].isdigit() for key in folder.keys if key.startswith(start)
    )


def _by_keys(folder: DcpFolder, config: Mapping[str, Any]) -> Naming:
    """Whose keys these are: the table whose names of a first and a last tensor are there, else the model's own names."""
    for trainer in _BY_KEYS:
        table = naming(trainer)
        own = table.models.get(str(config["model_type"])) or next(iter(table.models.values()))
        key = own["model.embed_tokens.weight"].partition(" rows ")[0]
        if folder.is_tensor(table.weight.format(key=key)):
            return table
    return naming("dcp")


def _open(
    table: Naming,
    weights: Keyed,
    optimizer: Keyed | None,
    folder: Path,
    config: dict[str, Any],
    names: ModelNames,
) -> Contents:
    addresses = table.addresses(config, (*names.shapes, *names.aliases))
    places = _weights(table, weights, addresses, folder, names)
    owned = {name: addresses[name] for name in names.trained}
    unread: tuple[Unread, ...] = ()
    if optimizer is not None and table.trainer == "dcp" and _is_numbered(table, optimizer):
        why = "its entries have numbers and no names; torch.distributed.checkpoint.state_dict.get_state_dict saves names"
        optimizer, unread = None, (Unread("the optimizer's state", "moments", why),)
    info = None if optimizer is None else _groups(table, optimizer, owned, folder)
    moments: dict[str, dict[str, DcpPlace]] = {}
    steps: dict[str, float] = {}
    if optimizer is not None and info is not None:
        moments = _moments(table, optimizer, owned, info, names)
        steps = _steps(table, optimizer, owned, info) if moments else {}
    source = DcpSource({"weight": places, **moments})
    path = folder / f"{LINEAGE}.json"
    lineage = Lineage.parse(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else Lineage()
    return Contents(config, source, steps, info, _records(table, weights, folder), lineage, unread=unread)


def _weights(
    table: Naming, folder: Keyed, addresses: Mapping[str, Address], path: Path, names: ModelNames
) -> dict[str, DcpPlace]:
    """Every weight's place; tied copies are compared, unknown and missing tensors are errors."""
    keys = {name: table.weight.format(key=one.key) for name, one in addresses.items()}
    if table.master:  # what is trained, where the weights are rounded copies
        masters = {name: table.master.format(key=one.key) for name, one in addresses.items()}
        keys |= {name: key for name, key in masters.items() if folder.is_tensor(key)}
    found = {
        name: _place(folder, key, addresses[name]) for name, key in keys.items() if folder.is_tensor(key)
    }
    left = {
        key
        for key in folder.keys
        - {*keys.values(), *(table.weight.format(key=one.key) for one in addresses.values())}
        if folder.is_tensor(key)
        and not key.startswith((*table.others, table.state.partition("{")[0]))
        and ("." in key or folder.meta(key).shape)  # a loop's own counter
    }
    for key in left:
        found[key] = DcpPlace(folder, key)
    return match_names(path, found, replace(names, prefix="", disk={}, apart={}))


def _place(folder: Keyed, key: str, address: Address) -> DcpPlace:
    stored = folder.meta(key).shape
    if address.layer is not None and not (len(stored) and address.layer < stored[0]):
        raise CheckpointError(f"{key} stacks {stored[:1]} layers", expected=f"more than {address.layer}")
    rows = stored[0 if address.layer is None else 1]
    if address.rows is not None and (not len(address.rows) or int(address.rows.max()) >= rows):
        raise CheckpointError(f"{key} has too few rows for this model", got=rows, expected=len(address.rows))
    return DcpPlace(folder, key, address.layer, address.rows)


def _groups(
    table: Naming, folder: Keyed, addresses: Mapping[str, Address], where: Path
) -> OptimizerInfo | None:
    """The optimizer's groups: as they are stored, or made of the parameters whose options are equal."""
    if not table.option:
        return None
    start = table.option.partition("{")[0]
    stored: dict[str, dict[str, Any]] = {}
    for key in sorted(folder.keys):
        if key.startswith(start):
            owner, _, name = key.removeprefix(start).rpartition(".")
            stored.setdefault(owner, {})[name] = key
    if not stored:
        return None
    if all(owner.isdigit() for owner in stored):
        found = [
            {name: folder.value(key) for name, key in stored[owner].items()}
            for owner in sorted(stored, key=int)
        ]
        names = {one.key: name for name, one in addresses.items()}
        groups = [(tuple(_called(key, names) for key in each.pop("params")), each) for each in found]
    else:
        by_options: dict[str, tuple[list[str], dict[str, Any]]] = {}
        for name, one in addresses.items():
            if one.key not in stored:
                raise CheckpointError(f"{where}: the optimizer has no options for {name}")
            each = {word: option(folder.value(key)) for word, key in stored[one.key].items()}
            by_options.setdefault(json.dumps(each, sort_keys=True), ([], each))[0].append(name)
        groups = [(tuple(members), each) for members, each in by_options.values()]
    return _info(where, groups, frozenset(addresses))


def _called(key: Any, names: Mapping[str, str]) -> str:
    """The parameter that a group lists."""
    plain = _plain_key(f"model.{key}").removeprefix("model.")
    return names.get(key) or names.get(plain, str(key))


def _info(
    where: Path, groups: list[tuple[tuple[str, ...], dict[str, Any]]], names: frozenset[str]
) -> OptimizerInfo:
    listed = [name for members, _ in groups for name in members]
    if sorted(listed) != sorted(names):
        raise CheckpointError(
            f"the optimizer's groups in {where} are not the model's parameters, each once",
            got=some(set(listed) ^ names or set(listed)),
        )
    made = []
    for members, options in groups:
        plain = {key: option(value) for key, value in options.items() if key != "param_names"}
        if {"betas", "eps"} <= set(plain):
            plain.setdefault(
                "amsgrad", False
            )  # a trainer's own AdamW (OLMo-core's SkipStepAdamW) may not store it
        made.append((name_from_options(str(where), plain), ParamGroup(members, plain)))
    kinds = {kind for kind, _ in made}
    if len(kinds) > 1:
        raise CheckpointError(f"{where} has groups of several optimizers", got=some(kinds))
    return OptimizerInfo(made[0][0], tuple(group for _, group in made))


def _moments(
    table: Naming,
    folder: Keyed,
    addresses: Mapping[str, Address],
    info: OptimizerInfo,
    names: ModelNames,
) -> dict[str, dict[str, DcpPlace]]:
    """The place of every slot of every parameter; none where the optimizer has not stepped, or keeps nothing."""
    slots = info.slots(names.shapes)
    wanted = {
        (name, slot): table.state.format(key=addresses[name].key, slot=slot)
        for name in names.shapes
        for slot in slots.get(name, ())  # a buffer has none
    }
    if not any(folder.is_tensor(key) for key in wanted.values()):
        return {}
    moments: dict[str, dict[str, DcpPlace]] = {}
    for (name, slot), key in wanted.items():
        if not folder.is_tensor(key):
            fix = "take one step in which every parameter has a gradient, and save again"
            raise CheckpointError(f"the optimizer's state lacks {slot} of {name}", got=f"no {key}", fix=fix)
        factor = SLOTS[slot].mean_over is not None
        place = _place(folder, key, replace(addresses[name], rows=None) if factor else addresses[name])
        expected = SLOTS[slot].shape(names.shapes[name])
        if place.meta.shape != expected or place.meta.dtype not in GROWN_DTYPES:
            raise CheckpointError(
                f"{slot} of {name} has the wrong shape or dtype",
                got=f"{place.meta.shape} {place.meta.dtype}",
                expected=expected,
            )
        moments.setdefault(slot, {})[name] = place
    return moments


def _steps(
    table: Naming, folder: Keyed, addresses: Mapping[str, Address], info: OptimizerInfo
) -> dict[str, float]:
    counted = info.counted()
    return {
        name: _step(folder, table.state.format(key=one.key, slot="step"), name)
        for name, one in addresses.items()
        if name in counted
    }


def _step(folder: Keyed, key: str, name: str) -> float:
    if key not in folder.keys:
        raise CheckpointError(
            f"the optimizer's state does not say how many steps {name} has seen", got=f"no {key}"
        )
    return step_count("", name, folder.read(key) if folder.is_tensor(key) else folder.value(key))


def _records(table: Naming, folder: Keyed, path: Path) -> dict[str, Any]:
    """What else is worth carrying on: Trainer's own files, or how far torchtitan was."""
    if table.trainer == "accelerate":
        return read_trainer_records(path)
    if table.trainer != "torchtitan":
        return {}
    words = {
        "step": "train_state.step",
        "ntokens_seen": "train_state.ntokens_seen",
        "last_epoch": "lr_scheduler.last_epoch",
    }
    found = {word: option(folder.value(key)) for word, key in words.items() if key in folder.keys}
    return {"torchtitan": found} if found else {}


def _whole(folder: Path) -> tuple[Keyed, Keyed | None]:
    """FSDP's whole state: weights by name in one file, the optimizer's state by name in another."""
    weights = load_plain(folder / "pytorch_model_fsdp.bin", mapped=True)
    if not isinstance(weights, dict):
        raise CheckpointError(f"{folder / 'pytorch_model_fsdp.bin'} holds no weights by name")
    first = PlainFolder(folder, {f"model.{name}": value for name, value in weights.items()})
    if not (folder / "optimizer.bin").is_file():
        return first, None
    content = load_plain(folder / "optimizer.bin", mapped=True)
    try:
        flat = {
            f"optimizer.state.{name}.{slot}": value
            for name, entry in content["state"].items()
            for slot, value in entry.items()
        }
        for number, group in enumerate(content["param_groups"]):
            flat |= {f"optimizer.param_groups.{number}.{word}": value for word, value in group.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / 'optimizer.bin'} is no optimizer's state by name", got=error
        ) from error
    return first, PlainFolder(folder, flat)


def _open_ours(folder: Path, config: dict[str, Any], names: ModelNames) -> Contents:
    content = native.read_manifest(folder)
    lineage = native.native_lineage(folder, content)
    native.check_files(folder, content["files"])
    stored, table = DcpFolder.open(folder), naming("dcp")
    addresses = {name: Address(name) for name in (*names.shapes, *names.aliases)}
    places = _weights(table, stored, addresses, folder, names)
    info, steps = native.read_groups(folder, content["files"], names)
    moments = {} if info is None else _moments(table, stored, addresses, info, names)
    if set(steps) != (info.counted() if info is not None and moments else set()):
        raise CheckpointError(f"{folder / 'optimizer.json'} has steps of other parameters than have moments")
    source = DcpSource({"weight": places, **moments})
    records = native.read_native_records(folder, content)
    return Contents(config, source, steps, info, records, lineage)
