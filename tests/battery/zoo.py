"""Small real models, built by transformers, all axis sizes different, weights and norms random, float64."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from outgrow.models.architecture import load_architecture, resolve
from outgrow.models.model import Model

GPT2 = {"n_embd": 24, "n_head": 4, "n_layer": 3, "n_inner": 40, "n_positions": 16, "vocab_size": 37}
BERT = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "vocab_size": 37,
    "type_vocab_size": 2,
}
LLAMA = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_hidden_layers": 3,
    "intermediate_size": 40,
    "vocab_size": 37,
    "max_position_embeddings": 32,
}
MIXTRAL = {**LLAMA, "num_local_experts": 5, "num_experts_per_tok": 2}
QWEN3_MOE = {
    **LLAMA,
    "intermediate_size": 11,
    "moe_intermediate_size": 40,
    "num_experts": 5,
    "num_experts_per_tok": 2,
}
VIT = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 40,
    "image_size": 15,
    "patch_size": 5,
    "num_channels": 2,
    "num_labels": 7,
}
TEACHER = {"architectures": ["DeiTForImageClassificationWithTeacher"]}
QWEN2 = {**{name: size for name, size in LLAMA.items() if name != "head_dim"}, "hidden_size": 32}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ROBERTA = {"pad_token_id": 1, "bos_token_id": 0, "layer_norm_eps": 1e-12}
BIASES = {"attention_bias": True, "mlp_bias": True}
NEOX = {
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "vocab_size": 37,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", **GPT2},
    "gpt2-untied": {"model_type": "gpt2", **GPT2, "tie_word_embeddings": False},
    "bert": {"model_type": "bert", **BERT},
    "bert-untied": {"model_type": "bert", **BERT, "tie_word_embeddings": False},
    "roberta": {"model_type": "roberta", **BERT, **ROBERTA},
    "llama": {"model_type": "llama", **LLAMA},
    "llama-tied-bias": {"model_type": "llama", **LLAMA, **BIASES, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", **LLAMA, "sliding_window": 5},
    "eurobert": {"model_type": "eurobert", **LLAMA, **BIASES},
    "eurobert-tied": {"model_type": "eurobert", **LLAMA, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", **QWEN2},
    "qwen3": {"model_type": "qwen3", **LLAMA},
    "qwen3-tied": {"model_type": "qwen3", **LLAMA, "tie_word_embeddings": True},
    "mixtral": {"model_type": "mixtral", **MIXTRAL},
    "qwen3_moe": {"model_type": "qwen3_moe", **QWEN3_MOE},
    "gpt_neox": {"model_type": "gpt_neox", **NEOX},
    "gpt_neox-serial": {
        "model_type": "gpt_neox",
        **NEOX,
        "use_parallel_residual": False,
        "attention_bias": False,
    },
    "vit": {"model_type": "vit", **VIT},
    "deit": {"model_type": "deit", **VIT, "qkv_bias": False},
    "deit-teacher": {"model_type": "deit", **VIT, **TEACHER},
}


def family(name: str) -> str:
    """`gpt2` (pre-norm LayerNorm), `vit` (the same, on images), `neox` (the same, heads of one size), `bert` (post-norm
    LayerNorm) or `llama` (pre-norm RMSNorm)."""
    if load_architecture(CONFIGS[name]["model_type"]).objective == "image":
        return "vit"
    families = {"gpt2": "gpt2", "gpt_neox": "neox", "bert": "bert", "roberta": "bert"}
    return families.get(CONFIGS[name]["model_type"], "llama")


def config(name: str) -> dict[str, Any]:
    """The full config of a small model, defaults filled in by transformers."""
    settings = {**TOKENS, **CONFIGS[name]}
    return transformers.AutoConfig.for_model(settings.pop("model_type"), **settings).to_dict()


def resolved(name: str) -> Model:
    return resolve(config(name))


def empty(full: dict[str, Any]) -> nn.Module:
    """The transformers model of a config; under `torch.device("meta")` it has shapes alone."""
    made = transformers.AutoConfig.for_model(**full)
    made._experts_implementation = "eager"  # torch's grouped product knows no float64
    names = full.get("architectures") or [load_architecture(full["model_type"]).class_]
    return getattr(transformers, names[0])(made)


def build(
    full: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float64, embedding: float = 1.0
) -> nn.Module:
    """A model with random weights, also in norms and biases, so that no zero or one hides a mistake.

    `embedding` is the standard deviation of embedding tables, and so, where they are tied, the size of logits; of a
    classifier as well.
    """
    model = empty(full)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            gain = "norm" in name.lower() or "ln_" in name
            table = "emb" in name or "wte" in name or "wpe" in name
            if parameter.dim() == 1 or "token" in name:
                parameter.copy_(noise * 0.3 + (1.0 if gain and name.endswith("weight") else 0.0))
            else:
                size = embedding if "classifier" in name else 1.0
                parameter.copy_(noise * (embedding if table else size * 1.5 / parameter.shape[-1] ** 0.5))
    return model.to(dtype).eval()


def every_expert(model: nn.Module) -> nn.Module:
    """The same model with all experts at work for every token: a choice is a step, and rounding may cross it."""
    for module in model.modules():
        if type(module).__name__.endswith("TopKRouter"):
            module.top_k = module.num_experts
    return model


def batch(seed: int = 1, rows: int = 3, columns: int = 9) -> Tensor:
    """A fixed batch of tokens of the small vocabulary."""
    return torch.randint(3, 37, (rows, columns), generator=torch.Generator().manual_seed(seed))


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """The model's logits; to an image model a sequence of tokens is an image with that number of waves."""
    if model.main_input_name == "input_ids":
        return model(input_ids=tokens).logits
    config, parameter = model.config, next(model.parameters())
    waves = tokens.double().mean(-1).view(-1, 1, 1, 1)
    pixels = torch.arange(config.num_channels * config.image_size**2, dtype=torch.float64)
    image = torch.sin(waves * pixels.view(1, config.num_channels, config.image_size, -1))
    return model(pixel_values=image.to(parameter.dtype)).logits


def loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy of the logits in float64: the loss of transformers' causal models is computed in float32."""
    found = logits(model, tokens).double()
    if found.dim() == 2:
        return nn.functional.cross_entropy(found, tokens[:, 0] % found.shape[-1])
    return nn.functional.cross_entropy(found.flatten(0, 1), tokens.roll(-1, 1).flatten())


def loss_and_gradients(model: nn.Module, tokens: Tensor) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    value = loss(model, tokens)
    value.backward()
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }
    return value.item(), gradients


def norms_in_float64(model: nn.Module) -> nn.Module:
    """The same model with RMSNorms and routers that do not go through float32, so that nothing hides below 1e-7."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _rms_norm.__get__(module)  # type: ignore[method-assign]
        if type(module).__name__.endswith("TopKRouter"):
            module.forward = _router.__get__(module)  # type: ignore[method-assign]
    return model


def _rms_norm(self: Any, x: Tensor) -> Tensor:
    return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))


def _router(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = nn.functional.linear(x.flatten(0, -2), self.weight)
    scores, chosen = logits.softmax(-1).topk(self.top_k)
    normalised = getattr(self, "norm_topk_prob", True)
    return logits, scores / scores.sum(-1, keepdim=True) if normalised else scores, chosen
