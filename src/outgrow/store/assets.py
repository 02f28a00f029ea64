"""Files that a state carries along as they are: tokenizer, generation defaults, licence, the source's own card.

Growing changes nothing in them. Each has a name in the folder, and bytes that lie in a file or in memory.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.errors import CheckpointError
from outgrow.store.card import CARD
from outgrow.store.config_file import read_json

if TYPE_CHECKING:
    from transformers import GenerationConfig

TEMPLATES = "additional_chat_templates"
"""The one folder of a model folder: further chat templates."""
SOURCE_CARD = "README.source.md"
"""A grown folder has a card of its own; that of its source lies beside it."""
GENERATION = "generation_config.json"

TOKENIZER = (
    "added_tokens.json",
    "*bpe.codes",
    "chat_template.jinja",
    "chat_template.json",
    f"{TEMPLATES}/*.jinja",
    "dict.txt",
    "emoji.json",
    "*merges.txt",
    "normalizer.json",
    "*.model",
    "*.model.v[0-9]*",
    "special_tokens_map.json",
    "*.spm",
    "tekken.json",
    "*.tiktoken",
    "tokenizer*.json",
    "vocab.bpe",
    "vocab*.json",
    "vocab*.txt",
)
"""Files of a tokenizer (patterns of `fnmatch`)."""
MODEL = (
    GENERATION,
    "operator.safetensors",
    "*preprocessor_config.json",
    "processor_config.json",
    "LICEN[CS]E*",
    "COPYING*",
    "NOTICE*",
    "USE_POLICY*",
    "*[Ll]icen[cs]e.txt",
    "*[Ll]icen[cs]e.md",
    SOURCE_CARD,
)
"""Files of a model that hold at any size: sampling, images, terms of use, a fitted operator."""
_OWN_CODE = re.compile(r"^(?:[^/]+--)?([A-Za-z_]\w*)\.[A-Za-z_]\w*$")


@dataclass(frozen=True)
class Asset:
    """A file to carry along.

    >>> Asset("LICENSE", content=b"MIT").bytes
    3
    """

    name: str
    """Where it lies in the folder, with `/` between parts."""
    path: Path | None = None
    content: bytes = b""
    """What it holds, where it lies in no file."""

    @classmethod
    def of(cls, path: Path) -> Asset:
        """A file under its own name."""
        return cls(path.name, path)

    @property
    def bytes(self) -> int:
        """Size in bytes. Raises `CheckpointError` where the file is gone."""
        if self.path is None:
            return len(self.content)
        if not self.path.is_file():
            raise CheckpointError(f"{self.path}, which the state copies along, is gone")
        return self.path.stat().st_size

    def write(self, folder: Path) -> None:
        """Put it into a folder, unless something of that name is there."""
        target = folder / self.name
        if target.exists():
            return
        target.parent.mkdir(exist_ok=True)
        if self.path is None:
            target.write_bytes(self.content)
        else:
            shutil.copyfile(self.path, target)


def find_assets(
    folder: Path, patterns: tuple[str, ...] = (*TOKENIZER, *MODEL), *, grown: bool = False
) -> tuple[Asset, ...]:
    """What a model folder has to carry along, in the order of the names.

    A source's `README.md` becomes `README.source.md`; that of a `grown` state is its own card, which is written anew.
    """
    names = [path.name for path in folder.iterdir() if path.is_file()]
    names += [f"{TEMPLATES}/{path.name}" for path in (folder / TEMPLATES).glob("*") if path.is_file()]
    code = _tokenizer_code(folder) if patterns != MODEL else ()
    found = {name: folder / name for name in names if is_asset(name, patterns) or name in code}
    if patterns != TOKENIZER and not grown and (folder / CARD).is_file():
        found[SOURCE_CARD] = folder / CARD
    return tuple(Asset(name, path) for name, path in sorted(found.items()))


def is_asset(name: str, patterns: tuple[str, ...] = (*TOKENIZER, *MODEL)) -> bool:
    """Whether a file of this name is carried along.

    >>> is_asset("tokenizer.model.v3"), is_asset("model.safetensors"), is_asset("LICENSE.txt")
    (True, False, True)
    """
    return (
        any(fnmatchcase(name, pattern) for pattern in patterns) and not name.endswith(".safetensors")
    ) or (name == "operator.safetensors" and name in patterns)


def _tokenizer_code(folder: Path) -> tuple[str, ...]:
    """The modules that a tokenizer or processor brings itself: they are copied, and never run."""
    found: list[str] = []
    for name in ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        content = read_json(folder / name) if (folder / name).is_file() else {}
        named = content.get("auto_map") if isinstance(content, dict) else None
        for value in named.values() if isinstance(named, dict) else ():
            words = value if isinstance(value, list) else [value]
            matches = (_OWN_CODE.match(word) for word in words if isinstance(word, str))
            found += [f"{match[1]}.py" for match in matches if match is not None]
    return tuple(dict.fromkeys(found))


def generation_asset(content: Mapping[str, Any]) -> Asset | None:
    """Generation defaults that stand in a `config.json`, as the file that transformers keeps them in; None without any.

    Folders from before `generation_config.json` have them there, and `from_pretrained` still reads them.
    """
    from transformers import GenerationConfig

    known = set(GenerationConfig().to_dict()) - _NOT_SAMPLING
    if not any(content.get(name) is not None for name in known):
        return None
    try:
        found = GenerationConfig.from_model_config(dict(content))
        text = found.to_json_string(use_diff=True)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError("the generation defaults in config.json are not valid", got=error) from error
    return Asset(GENERATION, content=text.encode())


def live_generation(model: Any) -> tuple[Asset, ...]:
    """How a live model generates, as an asset; none where that follows from its config."""
    from transformers import GenerationConfig

    found = getattr(model, "generation_config", None)
    if not isinstance(found, GenerationConfig):
        return ()
    usual = GenerationConfig.from_model_config(model.config)
    same = {"_from_model_config", "transformers_version"}
    ours, theirs = (
        {name: value for name, value in one.to_dict().items() if name not in same} for one in (found, usual)
    )
    return (
        () if ours == theirs else (Asset(GENERATION, content=found.to_json_string(use_diff=True).encode()),)
    )


def generation_settings(assets: Iterable[Asset]) -> GenerationConfig | None:
    """How a model generates, as the file among its assets says; None without one."""
    from transformers import GenerationConfig

    for asset in assets:
        if asset.name == GENERATION:
            content = asset.content if asset.path is None else asset.path.read_bytes()
            try:
                return GenerationConfig.from_dict(json.loads(content))
            except (TypeError, ValueError, AttributeError) as error:
                raise CheckpointError(
                    f"{GENERATION} is not valid", got=error, fix="mend or remove it"
                ) from error
    return None


_NOT_SAMPLING = frozenset(
    [
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "decoder_start_token_id",
        "transformers_version",
        "_from_model_config",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "return_dict_in_generate",
    ]
)
"""Fields of a generation config that a model's config has of its own."""
