"""What architecture files say of names, shapes and ties is what transformers builds: every type, bare too, tied and untied, grown.

A growth of files believes its architecture file without a model of transformers (`models/names.py`); this holds the files.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from outgrow.errors import GrowthError, OutgrowError
from outgrow.growth.target import target
from outgrow.models.architecture import load_architecture, resolve
from outgrow.models.bare import bare_class
from outgrow.models.files import known
from outgrow.models.library import config_dict, config_object, library_names, model_names
from outgrow.models.names import described_names, is_tested
from outgrow.proof import tiny_model
from outgrow.state.asked import plan_growth

HEAVY = (
    "accelerate",
    "matplotlib",
    "torch._dynamo",
    "torch.distributed.tensor",
    "transformers.activations",
    "transformers.modeling_utils",
)
TYPES = [name for name in known() if load_architecture(name).library == "transformers"]


def configs(model_type: str) -> Iterator[dict[str, Any]]:
    """The example of a type for each of its classes, at its own sizes and larger ones, embeddings tied and not, and without
    what it may lack."""
    spec = load_architecture(model_type)
    assert spec.example is not None
    example = tiny_model.example(spec)
    lacking = [{**example, axis.size: 0} for axis in spec.axes.values() if axis.optional]
    of_class = {one.of_class for one in spec.parameters.values()}
    classes = {spec.class_, bare_class(spec), *of_class} - {None}
    for sizes in (example, target(resolve(example), spec.example.grow).config, *lacking):
        for tied in (True, False):
            for kind in sorted(classes, key=str):
                content = {**sizes, "tie_word_embeddings": tied, "architectures": [kind]}
                yield config_dict(config_object(content))


@pytest.mark.parametrize("model_type", TYPES)
def test_a_file_says_the_names_that_transformers_has(model_type: str) -> None:
    for config in configs(model_type):
        assert is_tested(config)
        ours, theirs = described_names(resolve(config)), library_names(config)
        assert dict(ours.shapes) == dict(theirs.shapes), config
        assert dict(ours.aliases) == dict(theirs.aliases), config
        assert (ours.prefix, ours.buffers, ours.apart) == (theirs.prefix, theirs.buffers, theirs.apart)
        assert (ours.disk, ours.ignored) == (theirs.disk, theirs.ignored)
        assert model_names(config) == ours


@pytest.mark.parametrize("model_type", TYPES)
def test_a_size_that_grows_alone_gives_the_shapes_that_transformers_has(model_type: str) -> None:
    """Helium's class takes for granted that its heads together are as wide as the stream."""
    spec = load_architecture(model_type)
    assert spec.example is not None
    small = config_dict(config_object({**tiny_model.example(spec), "architectures": [spec.class_]}))
    for name in {"hidden_size", "num_attention_heads", "head_dim"} & set(spec.example.grow):
        try:
            large = plan_growth(small, to={name: spec.example.grow[name]}).config
        except OutgrowError:
            continue
        assert dict(described_names(resolve(large)).shapes) == dict(library_names(large).shapes), name


def test_a_list_that_must_be_as_long_as_what_grows_is_left_to_the_library() -> None:
    """longrope has a factor for each pair of a head's numbers, which no shape of a tensor tells."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 16}
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=1,
        eos_token_id=2,
        rope_parameters={"rope_theta": 10000.0, "rope_type": "longrope", "factor": 4.0, **factors},
    )
    small = config_dict(config) | {"architectures": ["LlamaForCausalLM"]}
    with pytest.raises(GrowthError, match="no model can be built of the target's config"):
        plan_growth(small, to={"head_dim": 16})
    assert plan_growth(small, to={"num_hidden_layers": 4}).config["num_hidden_layers"] == 4


@pytest.mark.parametrize(
    ("model_type", "change"),
    [
        ("llama", {"hidden_act": "gelo"}),
        ("llama", {"pad_token_id": 999}),
        ("llama", {"rope_parameters": {"rope_type": "nowhere", "rope_theta": 1e4}}),
        ("gemma3", {"hidden_activation": "gelo"}),
        ("gemma3", {"pad_token_id": 999}),
    ],
    ids=str,
)
def test_what_only_the_class_refuses_is_refused(model_type: str, change: dict[str, Any]) -> None:
    """In a config, and in that of the text inside a wrapper's."""
    config = tiny_model.example(load_architecture(model_type))
    config |= {"text_config": config["text_config"] | change} if "text_config" in config else change
    with pytest.raises(GrowthError, match="no model can be built of the target's config"):
        plan_growth(config, to={"num_hidden_layers": 4})


def test_activations_that_came_late_are_those_of_transformers() -> None:
    script = """
from outgrow.models.late_activations import import_validators
import_validators()
import sys
assert "transformers.activations" not in sys.modules
from transformers.utils import type_validators
late = type_validators.ACT2FN
from transformers.activations import ACT2FN
assert list(late) == list(ACT2FN)
assert all(type(late[name]) is type(ACT2FN[name]) for name in ("gelu", "silu", "relu"))
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    "words",
    [
        ("grow", "{small}", "{out}", "--to", "num_hidden_layers=4"),
        ("grow", "{small}", "{out}", "--to", "num_hidden_layers=4", "--dry-run"),
        ("inspect", "{small}"),
    ],
    ids=["grow", "dry-run", "inspect"],
)
def test_a_growth_of_a_folder_imports_no_model(words: tuple[str, ...], tmp_path: Path) -> None:
    """Nor torch's compiler or its tensors that are cut among ranks: they take longer than all of torch."""
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "small")
    script = f"""
import sys
from outgrow.cli import app
HEAVY = {HEAVY}
app(sys.argv[1:], standalone_mode=False)
for name in sorted(sys.modules):
    a_model = name.startswith("transformers.models.") and ".modeling_" in name and ".auto." not in name
    if a_model or name in HEAVY:
        print("IMPORTED", name)
print("looked at", len(sys.modules), "modules")
"""
    filled = [word.format(small=tmp_path / "small", out=tmp_path / "large") for word in words]
    ran = subprocess.run([sys.executable, "-c", script, *filled], capture_output=True, text=True, check=True)
    assert "IMPORTED" not in ran.stdout
    assert "looked at" in ran.stdout
