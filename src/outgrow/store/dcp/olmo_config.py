"""OLMo-core's own `config.json`, as the config of transformers' model of the same function, and back.

It describes an experiment; its `model` is a dense pre-norm stack with rotary halves, which is transformers' Llama. What
differs from that (query and key norms, reordered norms, experts, hybrid blocks) is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outgrow.errors import CheckpointError

_PLAIN: Mapping[str, Any] = {
    "name": "default",
    "block.name": "default",
    "block.sequence_mixer.name": "default",
    "block.sequence_mixer.type": "attention",
    "block.sequence_mixer.bias": False,
    "block.sequence_mixer.qk_norm": None,
    "block.sequence_mixer.clip_qkv": None,
    "block.sequence_mixer.sliding_window": None,
    "block.sequence_mixer.gate": None,
    "block.sequence_mixer.scalable_softmax": False,
    "block.sequence_mixer.attention_sinks": False,
    "block.sequence_mixer.rope.name": "default",
    "block.sequence_mixer.rope.scaling": None,
    "block.sequence_mixer.rope.no_global_rope": False,
    "block.sequence_mixer.rope.partial_rotary_factor": 1.0,
    "block.layer_norm.name": "rms",
    "block.layer_norm.bias": False,
    "block.feed_forward.name": "default",
    "block.feed_forward.bias": False,
    "block.feed_forward.activation": "silu",
    "block.feed_forward_moe": None,
    "block_overrides": None,
    "block_pattern": None,
    "lm_head.name": "default",
    "lm_head.layer_norm.name": "rms",
    "lm_head.bias": False,
    "embed_scale": None,
}
"""What a Llama has, by path; a key that is missing counts as None, or as the value here."""
_SIZES: Mapping[str, str] = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "block.feed_forward.hidden_size",
    "num_attention_heads": "block.sequence_mixer.n_heads",
    "num_key_value_heads": "block.sequence_mixer.n_kv_heads",
    "head_dim": "block.sequence_mixer.head_dim",
    "rms_norm_eps": "block.layer_norm.eps",
    "tie_word_embeddings": "tie_word_embeddings",
}


def is_olmo_config(content: Any) -> bool:
    """Whether JSON is OLMo-core's config of an experiment or of a model."""
    model = content.get("model", content) if isinstance(content, dict) else None
    return isinstance(model, dict) and "d_model" in model and "block" in model


def llama_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same model as a config of transformers; CheckpointError where it is no Llama.

    >>> llama_config({"d_model": 8, "vocab_size": 11, "n_layers": 1, "block": {"sequence_mixer": {"n_heads": 2,
    ...     "rope": {"theta": 10000}}, "feed_forward": {"hidden_size": 16}, "layer_norm": {"eps": 1e-5}}})["num_key_value_heads"]
    2
    """
    model = content.get("model", content)
    for path, usual in _PLAIN.items():
        found = _at(model, path)
        if found not in (None, usual):
            raise CheckpointError(
                f"outgrow reads OLMo-core's models that are transformers' Llama; here model.{path} differs",
                got=found,
                expected=usual,
                fix="convert it with OLMo-core's convert_checkpoint_to_hf.py",
            )
    made = {name: _at(model, path) for name, path in _SIZES.items()}
    heads = made["num_attention_heads"]
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **{name: value for name, value in made.items() if value is not None},
        "num_key_value_heads": made["num_key_value_heads"] or heads,
        "head_dim": made["head_dim"] or made["hidden_size"] // heads,
        "rope_theta": float(_at(model, "block.sequence_mixer.rope.theta") or 500_000),
        "tie_word_embeddings": bool(made["tie_word_embeddings"]),
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": None,
    }


def olmo_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """OLMo-core's description of a Llama of transformers: the `model` of its config."""
    theta = (config.get("rope_parameters") or {}).get("rope_theta") or config.get("rope_theta") or 10_000.0
    norm = {
        "name": "rms",
        "eps": config["rms_norm_eps"],
        "bias": False,
        **_class("nn.layer_norm.LayerNormConfig"),
    }
    heads, dim = config["num_attention_heads"], config["hidden_size"]
    own_dim = config.get("head_dim") or dim // heads
    mixer = {
        "name": "default",
        "type": "attention",
        "n_heads": heads,
        "n_kv_heads": config["num_key_value_heads"],
        **({"head_dim": own_dim} if own_dim * heads != dim else {}),
        "bias": False,
        "rope": {"name": "default", "theta": int(theta), **_class("nn.rope.RoPEConfig")},
        **_class("nn.attention.AttentionConfig"),
    }
    return {
        "name": "default",
        "d_model": dim,
        "vocab_size": config["vocab_size"],
        "n_layers": config["num_hidden_layers"],
        "tie_word_embeddings": bool(config.get("tie_word_embeddings")),
        "block": {
            "name": "default",
            "sequence_mixer": mixer,
            "layer_norm": norm,
            "feed_forward": {
                "name": "default",
                "hidden_size": config["intermediate_size"],
                "bias": False,
                **_class("nn.feed_forward.FeedForwardConfig"),
            },
            **_class("nn.transformer.config.TransformerBlockConfig"),
        },
        "lm_head": {
            "name": "default",
            "layer_norm": norm,
            "bias": False,
            **_class("nn.lm_head.LMHeadConfig"),
        },
        **_class("nn.transformer.config.TransformerConfig"),
    }


def _class(name: str) -> dict[str, str]:
    return {"_CLASS_": f"olmo_core.{name}"}


def _at(content: Any, path: str) -> Any:
    for name in path.split("."):
        content = content.get(name) if isinstance(content, dict) else None
    return content
