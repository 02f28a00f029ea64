"""Does a promise hold where a config says something odd? Every model type, one field after the other.

Fields are those that the code of the model's module reads and that are no size of its file: a truth is turned over, a number is
moved, a null becomes a number. The example of the type is then checked as `outgrow architectures check` does, in exact
arithmetic. A change that outgrow or transformers refuses counts as refused.

    python benchmarks/odd_configs.py [--types llama mixtral ...]
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import transformers

from outgrow.errors import OutgrowError
from outgrow.models.architecture import architecture_of, growable, load_architecture
from outgrow.models.files import known
from outgrow.proof import guard, tiny_model

NO_FUNCTION = re.compile(
    "dropout|drop_|pdrop|layerdrop|use_cache|output_|initializer|return_dict|problem_type|_attn_impl|_token_id|aux_loss|z_loss|gradient|"
    "chunk_size_feed|label|dtype|mask_|apply_spec|is_encoder|is_decoder|cross_attention|summary|use_mamba|classifier|tie_word|rope_param|jitter"
)
"""Fields that change no function, or that other checks try."""


def changes(model_type: str) -> Iterator[tuple[str, Any]]:
    """One field and what it is to be."""
    spec = load_architecture(model_type)
    module = sys.modules[getattr(transformers, spec.class_).__module__]
    code = inspect.getsource(module)
    described = [axis.size for axis in spec.axes.values()]
    if spec.layers.norm == "post":  # silent layers are exact there but for the eps
        described += [axis.eps or "" for axis in spec.axes.values()]
    for name, value in tiny_model.example(spec).items():
        read = re.search(rf"config\.{name}\b", code) and not re.search(rf"\b{name}\b", " ".join(described))
        if not read or NO_FUNCTION.search(name):
            continue
        if isinstance(value, bool):
            yield name, not value
        elif value is None:
            yield from ((name, one) for one in (0.5, 2))
        elif isinstance(value, float):
            yield name, 3 * value + 0.1


def tried(model_type: str, name: str, value: Any) -> str:
    """What comes of one change: held, refused, or wrong with the numbers."""
    example = load_architecture(model_type).example
    assert example is not None
    config = {**example.config, name: value}
    try:
        spec = architecture_of({"model_type": model_type, **config})
        grow = {one: size for one, size in example.grow.items() if one in growable(spec)}
        example = example.model_copy(update={"config": config, "grow": grow})
        found = guard.check(
            spec.model_copy(update={"example": example}), operators=("isometric", "duplicate", "pad")
        )
    except OutgrowError:
        return "refused"
    wrong = [f"units {found.units:.0e}"] * (found.units > guard.FUNCTION)
    for one in found.growths:
        wrong += [f"{one.operator} function {one.function:.0e}"] * (
            one.promises_function and one.function > guard.FUNCTION
        )
        wrong += [f"{one.operator} gradients {one.law:.0e}"] * (one.promises_law and one.law > guard.LAW)
    return f"WRONG: {', '.join(wrong)}" if wrong else "held"


def main() -> None:
    """All types, or those that are named; a line for each change that is wrong, and the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--types", nargs="*")
    asked = parser.parse_args().types
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    counts: Counter[str] = Counter()
    for model_type in asked or [
        name for name in known() if load_architecture(name).library == "transformers"
    ]:
        for name, value in changes(model_type):
            result = tried(model_type, name, value)
            counts[result.partition(":")[0]] += 1
            if result.startswith("WRONG"):
                print(f"{model_type} {name} = {value}: {result}", flush=True)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    main()
