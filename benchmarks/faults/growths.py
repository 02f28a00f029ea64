"""Random growths: architecture, sizes, operators, moments, noise, dtype; every promise is checked by transformers alone.

A promise is what the plan says before anything is grown: the function is kept, the gradients follow their law. What is refused
must be refused by an error of outgrow's own.
"""

from __future__ import annotations

import random
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import outgrow
from outgrow.algebra.slots import SLOTS
from outgrow.errors import OutgrowError
from outgrow.methods.build import DEPTH, WIDTH
from outgrow.models.architecture import load_architecture
from outgrow.parallel.ranks import ALONE
from outgrow.proof.guard import float64_casts
from outgrow.proof.measures import gradient_law
from outgrow.state.growing import apply
from outgrow.state.lineage import replay
from outgrow.store.layouts import save_contents

Config = dict[str, Any]
_LENGTH = 10
_FLOAT32 = torch.finfo(torch.float32).eps / 2
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@dataclass(frozen=True)
class Family:
    """How a model type is drawn: its fields for width, MLP, heads, key/value heads and layers."""

    draw: Callable[[random.Random], Config]
    width: str = "hidden_size"
    mlp: str = "intermediate_size"
    heads: str = "num_attention_heads"
    kv: str | None = None
    layers: str = "num_hidden_layers"


def _decoder(dice: random.Random, **own: Any) -> Config:
    head, kv, group = dice.choice((2, 4, 6, 8)), dice.choice((1, 1, 2, 3)), dice.choice((1, 1, 2, 3))
    heads = kv * group
    return {
        "hidden_size": head * heads,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "num_hidden_layers": dice.choice((1, 1, 2, 3)),
        "intermediate_size": dice.choice((1, 3, 7, 24)),
        "vocab_size": dice.choice((11, 37)),
        "max_position_embeddings": 32,
        "rms_norm_eps": dice.choice((1e-6, 1e-2)),
        "tie_word_embeddings": dice.random() < 0.5,
        "hidden_act": dice.choice(("silu", "gelu", "relu")),
        **_TOKENS,
        **own,
    }


def _experts(dice: random.Random, count: str, **own: Any) -> Config:
    number = dice.choice((1, 2, 3))
    return _decoder(dice, **{count: number, "num_experts_per_tok": dice.randint(1, number)}, **own)


def _gpt2(dice: random.Random) -> Config:
    heads = dice.choice((1, 2, 3))
    sizes = {"n_embd": heads * dice.choice((2, 4, 5)), "n_head": heads, "n_layer": dice.choice((1, 2, 3))}
    own = {
        "n_inner": dice.choice((None, 7, 40)),
        "n_positions": 24,
        "tie_word_embeddings": dice.random() < 0.5,
    }
    return {
        **sizes,
        **own,
        "vocab_size": 37,
        "activation_function": dice.choice(("gelu_new", "relu")),
        **_TOKENS,
    }


def _encoder(dice: random.Random, **own: Any) -> Config:
    heads = dice.choice((1, 2, 3))
    return {
        "hidden_size": heads * dice.choice((2, 4, 6)),
        "num_attention_heads": heads,
        "num_hidden_layers": dice.choice((1, 2, 3)),
        "intermediate_size": dice.choice((1, 7, 24)),
        "hidden_act": dice.choice(("gelu", "relu")),
        "layer_norm_eps": dice.choice((1e-12, 1e-5)),
        **own,
    }


def _text_encoder(dice: random.Random) -> Config:
    return _encoder(
        dice, vocab_size=37, max_position_embeddings=32, type_vocab_size=dice.choice((1, 2)), pad_token_id=0
    )


def _images(dice: random.Random) -> Config:
    return _encoder(
        dice, image_size=12, patch_size=4, num_channels=dice.choice((1, 2)), num_labels=dice.choice((2, 7))
    )


_KV = "num_key_value_heads"
FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        lambda dice: _decoder(dice, attention_bias=dice.random() < 0.5, mlp_bias=dice.random() < 0.5), kv=_KV
    ),
    "mistral": Family(lambda dice: _decoder(dice, sliding_window=dice.choice((None, 3))), kv=_KV),
    "qwen2": Family(
        lambda dice: _decoder(
            dice, use_sliding_window=dice.random() < 0.5, sliding_window=3, max_window_layers=1
        ),
        kv=_KV,
    ),
    "qwen3": Family(lambda dice: _decoder(dice, head_dim=dice.choice((4, 8))), kv=_KV),
    "mixtral": Family(lambda dice: _experts(dice, "num_local_experts"), kv=_KV),
    "qwen3_moe": Family(
        lambda dice: _experts(
            dice, "num_experts", head_dim=dice.choice((4, 8)), moe_intermediate_size=dice.choice((3, 8))
        ),
        mlp="moe_intermediate_size",
        kv=_KV,
    ),
    "gpt2": Family(_gpt2, "n_embd", "n_inner", "n_head", None, "n_layer"),
    "gpt_neox": Family(
        lambda dice: _encoder(
            dice,
            vocab_size=37,
            max_position_embeddings=32,
            rotary_pct=dice.choice((0.5, 1.0)),
            use_parallel_residual=dice.random() < 0.5,
            hidden_size=16,
            num_attention_heads=2,
        )
    ),
    "bert": Family(_text_encoder),
    "roberta": Family(_text_encoder),
    "eurobert": Family(lambda dice: _decoder(dice), kv=_KV),
    "vit": Family(_images),
    "deit": Family(_images),
}


def check(seed: int, place: Path) -> tuple[list[str], dict[str, Any]]:
    """Draw a growth, do it, and compare it with what the plan said: what is wrong, and what kind of growth it was."""
    dice = random.Random(seed)
    kind = dice.choice(sorted(FAMILIES))
    facts: dict[str, Any] = {"type": kind}
    try:
        return _check(dice, seed, kind, place, facts), facts
    except OutgrowError as error:
        facts["refused"] = str(error).splitlines()[0][:80]
        return [], facts
    except Exception:
        return [f"a fault: {traceback.format_exc()[-700:]}"], facts


def counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many growths were done, refused, and promised what."""
    found: Counter[str] = Counter()
    for row in rows:
        facts = row["facts"]
        found["refused" if "refused" in facts else "done"] += 1
        found["function promised"] += bool(facts.get("function"))
        found["gradient law promised"] += bool(facts.get("law"))
    return dict(found)


def _check(dice: random.Random, seed: int, kind: str, place: Path, facts: dict[str, Any]) -> list[str]:
    family, generator = FAMILIES[kind], torch.Generator().manual_seed(seed)
    drawn = {**family.draw(dice), "architectures": [load_architecture(kind).class_]}
    config = transformers.AutoConfig.for_model(kind, **drawn).to_dict()
    small = _random(_model(config, torch.float64), generator)
    dtype = dice.choice([torch.float64] * 4 + [torch.float32, torch.bfloat16])
    how = {
        "to": _larger(dice, family, config),
        "width": dice.choice([*sorted(WIDTH), *["pad", "isometric", "duplicate"] * 3]),
        "depth": dice.choice([*sorted(DEPTH), *["identity", "stack"] * 3]),
        "moments": dice.choice(("transport", "keep_zero", "copy", "reset")),
        "noise": dice.choice((0.0, 0.0, 0.1, 1.0)),
        "seed": dice.choice((0, 1, 7)),
    }
    facts |= {"width": how["width"], "depth": how["depth"], "dtype": str(dtype)}
    source = _model(config, dtype)
    source.load_state_dict(small.state_dict())
    state = _stepped(source, config, generator)
    plan = outgrow.plan_growth(state, **how)
    grown = outgrow.grow(state, **how)
    facts |= {"function": plan.keeps_function, "law": plan.keeps_gradient_law}
    folder = place / "grown"
    shutil.rmtree(folder, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    save_contents(
        grown,
        folder,
        shard_bytes=dice.choice((3000, 10**9)),
        block_bytes=dice.choice((64, 1000, 1 << 24)),
        workers=dice.choice((1, 2)),
        ranks=ALONE,
    )
    large = _model(dict(grown.config), torch.float64)
    wrong = [*_files(grown, folder, large, dtype), *_replayed(state, grown)]
    exact = _model(config, torch.float64)
    exact.load_state_dict(source.state_dict())
    # Promises hold for real numbers: the same weights are grown in float64, and what was saved is held against them.
    if dtype != torch.float64:
        unrounded = outgrow.grow(outgrow.TrainingState.from_model(exact), **{**how, "moments": "reset"})
        wrong += _rounding(grown, unrounded, dtype)
        grown = unrounded
    with torch.no_grad():
        for name, parameter in large.named_parameters():
            parameter.copy_(grown.source.read(name, "weight"))
    return wrong + _promises(plan, state, how, exact, large, config, generator)


def _files(grown: Any, folder: Path, large: nn.Module, dtype: torch.dtype) -> list[str]:
    """The folder: names and shapes of the real model, the bits of the state in memory, and transformers opens it."""
    wrong = []
    shapes = {name: tuple(parameter.shape) for name, parameter in large.named_parameters()}
    if shapes != {name: grown.source.meta(name, "weight").shape for name in grown.source.names("weight")}:
        wrong.append("other names or shapes than the real model's")
    back = outgrow.TrainingState.from_pretrained(folder, allow_nonfinite=True)
    for slot in SLOTS:
        for name in grown.source.names(slot):
            one, other = grown.source.read(name, slot), back.source.read(name, slot)
            if one.dtype != other.dtype or not torch.equal(_bits(one), _bits(other)):
                wrong.append(f"streamed {slot} of {name} has other bits")
            if slot != "weight" and not bool(torch.isfinite(one).all()):
                wrong.append(f"{slot} of {name} is not finite")
            if slot == "exp_avg_sq" and bool((one < 0).any()):
                wrong.append(f"{slot} of {name} is negative")
    cls = getattr(transformers, grown.config["architectures"][0])
    opened, told = cls.from_pretrained(folder, output_loading_info=True, dtype=dtype)
    wrong += [
        f"from_pretrained: {key} {list(told[key])[:2]}"
        for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if told.get(key)
    ]
    for name, parameter in opened.named_parameters():
        if not torch.equal(parameter.detach(), grown.source.read(name, "weight").to(dtype)):
            wrong.append(f"from_pretrained reads another {name}")
    return wrong[:5]


def _replayed(state: Any, grown: Any) -> list[str]:
    again = apply(replay(state.config, grown.lineage.last), state)
    names = grown.source.names("weight")
    return [
        f"replayed, {name} differs"
        for name in names
        if not torch.equal(again.source.read(name, "weight"), grown.source.read(name, "weight"))
    ][:2]


def _rounding(grown: Any, unrounded: Any, dtype: torch.dtype) -> list[str]:
    """Every weight is that of the growth in float64, rounded once to its dtype, after a few operations in float32."""
    wrong = []
    for name in grown.source.names("weight"):
        exact = unrounded.source.read(name, "weight")
        off = (grown.source.read(name, "weight").double() - exact).abs()
        allowed = torch.finfo(dtype).eps / 2 * exact.abs() + 8 * _FLOAT32 * exact.abs().max()
        if bool((off > allowed).any()):
            wrong.append(
                f"{name} is {float((off - allowed).max()):.1e} further from its exact value than rounding"
            )
    return wrong[:3]


def _promises(
    plan: Any,
    state: Any,
    how: Mapping[str, Any],
    small: Any,
    large: Any,
    config: Config,
    generator: torch.Generator,
) -> list[str]:
    """Function and gradient law in float64, where the plan promises them.

    Post-norm layers that are inserted are exact to eps; a router works in float32.
    """
    wrong = []
    inputs = _inputs(config, generator)
    before, after = (_forward(model, inputs, config)[0] for model in (small, large))
    gap = float((after - before).detach().abs().max() / before.detach().std().clamp(min=1e-9))
    routed = "num_experts_per_tok" in config
    post = load_architecture(config["model_type"]).layers.norm == "post"
    inserted = 4e3 * config["layer_norm_eps"] * (plan.large.layers - plan.small.layers) if post else 0.0
    if plan.keeps_function and not gap <= (1e-6 if routed else 1e-7) + inserted:
        wrong.append(f"the function is promised, and its logits differ by {gap:.1e}")
    if plan.keeps_gradient_law:
        with (
            float64_casts()
        ):  # else a gradient that vanishes, of a key bias, is the rounding of a softmax in float32
            gradients = [_gradients(model, _forward(model, inputs, config)[1]) for model in (small, large)]
        law = outgrow.plan_growth(state, **{**how, "moments": "transport"})
        worst = gradient_law(law, *gradients)[:1]
        if worst and not worst[0].error <= (1e-4 if routed else 1e-6) + inserted:
            wrong.append(f"the gradient law is promised, and {worst[0].name} is off by {worst[0].error:.1e}")
    return wrong


def _larger(dice: random.Random, family: Family, config: Config) -> dict[str, int]:
    """A target; some are refused."""
    to: dict[str, int] = {}
    style = dice.choice(("depth", "width", "both", "mlp", "heads", "double", "double", "vocab", "head size"))
    layers, width, heads = (config[name] for name in (family.layers, family.width, family.heads))
    if style in ("depth", "both"):
        to[family.layers] = dice.choice((layers + 1, 2 * layers, 3 * layers, layers + 2))
    if style in ("width", "both"):
        more = heads + dice.choice((0, 1, heads))
        if family.kv:
            groups = heads // config[family.kv]
            more = groups * (config[family.kv] + dice.choice((0, 1, config[family.kv])))
            to[family.kv] = more // groups
        to |= {family.heads: more, family.width: width // heads * more}
        if config.get(family.mlp):
            to[family.mlp] = config[family.mlp] + dice.choice((0, 1, 13))
    if style == "double":
        times = dice.choice((2, 2, 3))
        names = (
            family.width,
            family.heads,
            *filter(None, (family.kv,)),
            *((family.mlp,) if config.get(family.mlp) else ()),
        )
        to |= {name: times * config[name] for name in names}
    if style == "mlp":
        to[family.mlp] = (config.get(family.mlp) or 4 * width) * dice.choice((1, 2, 3)) + dice.choice(
            (0, 1, 5)
        )
    if style == "heads":
        to[family.heads] = heads * 2
    if style == "vocab" and "vocab_size" in config:
        to["vocab_size"] = config["vocab_size"] + dice.choice((1, 5, 64))
    if style == "head size":
        to["head_dim"] = 2 * (config.get("head_dim") or width // heads)
    return to or {family.layers: layers + 1}


def _model(config: Config, dtype: torch.dtype) -> Any:
    plain = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    made = transformers.AutoConfig.for_model(**plain)
    made._experts_implementation = made._attn_implementation = "eager"
    model = getattr(transformers, config["architectures"][0])(made).to(dtype).eval()
    for module in model.modules():
        if dtype == torch.float64 and type(module).__name__.endswith(
            "RMSNorm"
        ):  # transformers' own is float32 inside
            module.forward = _norm.__get__(module)
    return model


def _norm(self: Any, x: Tensor) -> Tensor:
    return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))


def _random(model: Any, generator: torch.Generator) -> Any:
    """Weights large enough that every part matters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.dim() == 1:
                is_gain = ("norm" in name.lower() or "ln_" in name) and name.endswith("weight")
                parameter.copy_(0.3 * noise + float(is_gain))
            else:
                is_table = "emb" in name.lower() or "wte" in name or "wpe" in name
                parameter.copy_(noise if is_table else 1.5 * noise / parameter.shape[-1] ** 0.5)
    return model


def _inputs(config: Config, generator: torch.Generator) -> dict[str, Tensor]:
    if "image_size" in config:
        shape = (4, config["num_channels"], config["image_size"], config["image_size"])
        return {"pixel_values": torch.randn(shape, generator=generator, dtype=torch.float64)}
    return {"input_ids": torch.randint(3, config["vocab_size"], (3, _LENGTH), generator=generator)}


def _forward(model: Any, inputs: Mapping[str, Tensor], config: Config) -> tuple[Tensor, Tensor]:
    """The logits of the small model's classes, and a loss over them alone."""
    dtype = next(model.parameters()).dtype
    given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    logits = model(**given).logits.double()
    kept = logits[..., : config["vocab_size"]] if "input_ids" in inputs else logits
    if logits.dim() == 3:
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), inputs["input_ids"].roll(-1, 1).flatten())
    else:
        loss = nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[-1])
    return kept, loss


def _gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameters[name]) if one is None else one
        for name, one in zip(parameters, found, strict=True)
    }


def _stepped(model: Any, config: Config, generator: torch.Generator) -> Any:
    """A state with moments of a real gradient, at the weights from before the step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    _forward(model, _inputs(config, generator), config)[1].backward()
    optimizer.step()
    optimizer.zero_grad()
    model.load_state_dict(kept)
    return outgrow.TrainingState.from_model(model, optimizer)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor.reshape(1).view(torch.uint8)
