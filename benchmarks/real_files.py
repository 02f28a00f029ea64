"""Checkpoints that others trained and packed: does each open, does it grow by odd sizes, is its function kept?

    python benchmarks/real_files.py PACKAGE.whl FOLDER ...

Every folder with a config.json inside a package (wheels, zips, zips inside them) or folder is opened as a user would. It grows
in width, with an odd number of MLP units and one silent layer more. `transformers` alone opens both and reads the same text, in float64:

    with a head      gap = max |Δlogits| / max |logits|
    without one      gap = max |Δ cosine of two texts|, each text the mean of its hidden states, as sentence embeddings are
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outgrow.errors import OutgrowError
from outgrow.models.architecture import growable, resolve
from outgrow.models.library import model_class
from outgrow.models.model import Model
from outgrow.state.asked import plan_growth
from outgrow.state.growing import grow
from outgrow.state.training_state import TrainingState

TEXTS = (
    "The cat sat on the mat and looked at the rain.",
    "A cat is sitting on a mat.",
    "Interest rates rose for the third time this year.",
    "Once upon a time there was a little girl who had a red ball.",
    "Where is the nearest station?",
)
TOLERANCE = 1e-5
"""Weights are stored in float32: each is off by 6e-8 of itself, and a few dozen layers of sums pass that on."""


@dataclass(frozen=True)
class Row:
    """What became of one package."""

    package: str
    model: str
    growth: str
    gap: str
    verdict: str


def main() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("places", nargs="+", type=Path)
    print("| package or folder | model | grown | gap | verdict |")
    print("|---|---|---|---|---|")
    for place in parser.parse_args().places:
        for row in rows(place):
            print(f"| {row.package} | {row.model} | {row.growth} | {row.gap} | {row.verdict} |", flush=True)


def rows(place: Path) -> Iterator[Row]:
    """One row for every model in a package or folder, or one that says what is there instead."""
    with tempfile.TemporaryDirectory() as scratch:
        root = place if place.is_dir() else Path(scratch) / "package"
        if place.is_file():
            unpack(place, root)
        found = sorted(path.parent for path in root.rglob("config.json") if is_model(path))
        if not found:
            files = sorted(
                (path for path in root.rglob("*") if path.is_file()), key=lambda p: -p.stat().st_size
            )
            largest = ", ".join(f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in files[:2])
            yield Row(place.name, "none", "", "", f"no model folder; its largest files: {largest}")
        for number, folder in enumerate(found):
            yield tried(place.name, folder, Path(scratch) / f"large-{number}")


def unpack(archive: Path, to: Path) -> None:
    """A wheel or zip, and the zips inside it."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(to)
    for inner in list(to.rglob("*.zip")):
        unpack(inner, inner.with_suffix(""))


def is_model(config: Path) -> bool:
    """Whether a config.json is a model's, and no module's of sentence-transformers."""
    return '"model_type"' in config.read_text(errors="replace")


def tried(package: str, folder: Path, large: Path) -> Row:
    """Open, grow, and compare."""
    try:
        state = TrainingState.from_pretrained(folder)
        model = resolve(state.config)
        to, width = growth_of(model)
        grow(state, to=to, width=width, depth="identity").save_pretrained(large, format="hub")
    except OutgrowError as error:
        return Row(package, folder.name, "", "", "refused: " + " ".join(str(error).split()))
    said = f"{model.spec.class_}, {model.num_parameters / 1e6:.2f} M"
    sizes = ", ".join(f"{name} {size}" for name, size in to.items())
    gap = function_gap(folder, large)
    verdict = "kept" if gap <= TOLERANCE else "**changed**"
    return Row(package, said, f"{sizes}; {width}", f"{gap:.1e}", verdict)


def growth_of(model: Model) -> tuple[dict[str, int], str]:
    """Odd sizes, by the first operator that keeps the function: half as wide again by `pad`, or twice by `isometric`."""
    for width, top, bottom in (("pad", 3, 2), ("isometric", 2, 1)):
        to = sizes(model, top, bottom)
        try:
            if plan_growth(model.config, to=to, width=width, depth="identity").keeps_function:
                return to, width
        except OutgrowError:
            continue
    return sizes(model, 1, 1), "pad"


def sizes(model: Model, top: int, bottom: int) -> dict[str, int]:
    """Width and heads times top / bottom, a tenth more MLP units and then an odd number, one layer more."""
    found = {model.spec.layers.count: model.layers + 1}
    for name in ("hidden_size", "num_attention_heads", "num_key_value_heads"):
        field = model.spec.aliases.get(name, name)
        if field in growable(model.spec) and isinstance(model.config.get(field), int) and top > bottom:
            found[field] = model.config[field] * top // bottom
    field = model.spec.aliases.get("intermediate_size", "intermediate_size")
    if field in growable(model.spec):
        found[field] = model.sizes["mlp"] * 11 // 10 | 1
    return found


def function_gap(small: Path, large: Path) -> float:
    """How far the function moved, as transformers alone sees it."""
    before, after = (read_by_transformers(folder, small) for folder in (small, large))
    return float((after - before).abs().max() / before.abs().max())


@torch.no_grad()
def read_by_transformers(folder: Path, tokenizer: Path) -> Tensor:
    """Logits of every text, or the cosines between all of them."""
    from transformers import AutoConfig, AutoTokenizer

    config: Mapping[str, Any] = AutoConfig.from_pretrained(folder).to_dict()
    model: Any = model_class(config).from_pretrained(folder, dtype=torch.float64).eval()
    encode = AutoTokenizer.from_pretrained(tokenizer)
    outputs = [model(input_ids=torch.tensor([encode(text)["input_ids"]])) for text in TEXTS]
    if hasattr(outputs[0], "logits"):
        return torch.cat([one.logits.flatten() for one in outputs])
    means = torch.stack([one.last_hidden_state.mean(1)[0] for one in outputs])
    units = torch.nn.functional.normalize(means)
    return units @ units.T


if __name__ == "__main__":
    main()
