"""The inventory of a source: every file of its folder, and what becomes of it.

    grown        tensors: computed anew at the new sizes
    rewritten    what names sizes, files or positions: config, indexes, Trainer's state
    carried      copied as it is
    left behind  not written again, and why

Nothing of a source vanishes without being named: an inventory holds each file once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from outgrow.store.assets import TEMPLATES, is_asset
from outgrow.store.card import CARD
from outgrow.store.safetensors_folder import LINEAGE, some

Fate = Literal["grown", "rewritten", "carried", "left behind"]
FATES: tuple[Fate, ...] = ("grown", "rewritten", "carried", "left behind")
FileKind = Literal["weight", "optimizer", "trainer", "record", "own", "asset", "left"]
"""`trainer`: a record in a file of Trainer's own, which its format alone writes; `record`: JSON of a native state."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, or one field of its config (`config.json: auto_map`)."""

    name: str
    kind: FileKind
    why: str = ""
    """Why it stays behind, where it does whatever is written."""

    def fate(self, format: str, *, moments: bool) -> tuple[Fate, str]:
        """What becomes of it in a format, and why where it stays behind; `moments`: whether the state written has any.

        >>> SourceFile("optimizer.pt", "optimizer").fate("hub", moments=False)
        ('left behind', 'the format hub is the model alone')
        """
        alone = format == "hub" and self.kind in ("optimizer", "trainer", "record")
        if self.why or alone:
            return "left behind", self.why or "the format hub is the model alone"
        match self.kind:
            case "weight":
                return "grown", ""
            case "optimizer":
                return ("grown", "") if moments else ("left behind", "moments begin anew")
            case "record" if format == "trainer":
                return "left behind", "a record of outgrow's own; the format native keeps it"
            case "trainer" | "own":
                return "rewritten", ""
            case _:
                return "carried", ""


_NONE: Mapping[str, str] = MappingProxyType({})


def take_inventory(
    folder: Path,
    *,
    weights: Iterable[str],
    optimizer: Iterable[str] = (),
    records: Iterable[str] = (),
    unread: Mapping[str, str] = _NONE,
    dropped: Mapping[str, str] = _NONE,
    ignored: Collection[str] = (),
    grown: bool = False,
) -> tuple[SourceFile, ...]:
    """Every file of a model folder; folders inside it count as one.

    `weights` and `optimizer` were read as tensors, `records` as records; `unread` could not be read, and `dropped` are
    fields of the config that do not hold for another model, each with its reason. `ignored` are tensors that are no
    parameters. A `grown` state has a card of its own.
    """
    read, moments, kept = set(weights), set(optimizer), set(records)

    def kind(name: str) -> tuple[FileKind, str]:
        if name in unread:
            return "left", unread[name]
        if name in read:
            return "weight", ""
        if name in moments:
            return "optimizer", ""
        if name in kept:
            return ("record" if name.endswith(".json") and name != "trainer_state.json" else "trainer"), ""
        if name in _OWN or name.endswith(".safetensors.index.json"):
            return "own", ""
        if name == CARD:
            return ("own" if grown else "asset"), ""
        if is_asset(name):
            return "asset", ""
        return "left", _why_left(name)

    found = [SourceFile(name, *kind(name)) for name in _names(folder)]
    found += [SourceFile(f"config.json: {field}", "left", why) for field, why in dropped.items()]
    return (*found, *([SourceFile(f"tensors: {some(ignored)}", "left", _IGNORED)] if ignored else []))


def fates(files: Iterable[SourceFile], format: str, *, moments: bool) -> dict[str, Any]:
    """The inventory as plain data, for the lineage: lists of names, and `left_behind` with a reason for each.

    >>> fates([SourceFile("vocab.txt", "asset")], "native", moments=False)
    {'grown': [], 'rewritten': [], 'carried': ['vocab.txt'], 'left_behind': {}}
    """
    told = [(file.name, *file.fate(format, moments=moments)) for file in files]
    listed: dict[str, Any] = {fate: [name for name, one, _ in told if one == fate] for fate in FATES[:-1]}
    return {**listed, "left_behind": {name: why for name, one, why in told if one == FATES[-1]}}


def _names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.name == TEMPLATES and path.is_dir():
            yield from (f"{TEMPLATES}/{one.name}" for one in sorted(path.iterdir()))
        else:
            yield path.name + "/" * path.is_dir()


_IGNORED = "no parameters of this class of model: transformers does not load them either"
_OWN = frozenset({"config.json", "outgrow.json", f"{LINEAGE}.json"})

_LEFT: Mapping[str, str] = {
    "training_args.bin": "a pickle of arguments, which Trainer writes anew from yours",
    "optimizer.bin": "an optimizer's state that outgrow does not read",
    "optimizer_[0-9]*/": "an optimizer's state in shards (FSDP), which outgrow does not read here",
    "pytorch_model_fsdp*": "weights in shards (FSDP), which outgrow does not read here",
    "global_step*/": "an optimizer's state of DeepSpeed, which outgrow does not read",
    "latest": "names DeepSpeed's folder of states, which outgrow does not read",
    "zero_to_fp32.py": "a script of DeepSpeed for states that outgrow does not read",
    "*_optim_states.pt": "an optimizer's state of DeepSpeed, which outgrow does not read",
    "random_states_*.pkl": "a pickle of random states",
    "scheduler.bin": "a schedule of Accelerate's, which nothing that is written here reads",
    "sampler*.bin": "a position in data of Accelerate's, which nothing that is written here reads",
    "dl_state_dict*.bin": "a position in data of Accelerate's, which nothing that is written here reads",
    "custom_checkpoint_*.pkl": "a pickle of objects of your own",
    "adapter_*": "an adapter, which is not part of the model: merge it first",
    "*.safetensors": "no weights of this model: no index names it",
    "*.bin": "a pickle, or weights in another format",
    "*.pt": "a pickle, or weights in another format",
    "*.pth": "a pickle, or weights in another format",
    "*.pkl": "a pickle",
    "*.gguf": "weights in another format, of the small model",
    "*.onnx*": "weights in another format, of the small model",
    "*.h5": "weights in another format, of the small model",
    "*.msgpack": "weights in another format, of the small model",
    "*.ot": "weights in another format, of the small model",
    "modules.json": "the modules of sentence-transformers, which know the small model's width",
    "[0-9]*_*/": "a module of sentence-transformers, made for the small model's width",
    "*sentence_*.json": "settings of sentence-transformers, which go with its modules",
    "*.py": "code: outgrow runs none, and transformers has a class of its own",
    ".*": "a file of git, of the hub or of an editor",
    "runs/": "a log of the small model's training",
    "events.out.tfevents*": "a log of the small model's training",
    "*_results.json": "numbers of the small model",
    "*/": "a folder, which no model folder has",
}


def _why_left(name: str) -> str:
    found = (why for pattern, why in _LEFT.items() if fnmatchcase(name, pattern))
    return next(found, "no file that outgrow knows")
