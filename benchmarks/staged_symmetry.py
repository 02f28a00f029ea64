"""Do the halves of a block-diagonal growth ever part? Tiny GPT-2, float64, 12 → 24 channels: `python benchmarks/staged_symmetry.py`.

drift       max |fold(train(grow(w))) - train(w)| / distance trained, with `outgrow.growth.multipliers`: 0 if moments are exact;
            fold(W') = G_oᵀ W' F_i is the small model that W' computes on the small model's activations
asymmetry   ‖W - PWP‖ / ‖W‖, P swaps the halves: 0 means that the model is still one of the old width
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from outgrow.growth.multipliers import multipliers
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.methods.build import build
from outgrow.models.architecture import resolve
from outgrow.state.grown_view import GrownView
from outgrow.store.source import MemorySource

TO = {"n_embd": 24, "n_head": 4, "n_inner": 40}
LEARNING_RATE, EPS = 1e-3, 1e-8
State = dict[str, dict[str, Tensor]]


def small_model(dropout: float = 0.0) -> GPT2LMHeadModel:
    config = GPT2Config(n_embd=12, n_head=2, n_inner=20, n_layer=2, n_positions=16, vocab_size=37, bos_token_id=1,
                        eos_token_id=2, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout)  # fmt: skip
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).double()


def step(model: nn.Module, adamw: torch.optim.AdamW, seed: int) -> None:
    tokens = torch.randint(3, 37, (4, 12), generator=torch.Generator().manual_seed(seed))
    adamw.zero_grad()
    logits = model(input_ids=tokens).logits
    nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    adamw.step()


def optimizer(model: nn.Module, rates: dict[str, float], scales: dict[str, float]) -> torch.optim.AdamW:
    groups = [
        {"params": [value], "lr": LEARNING_RATE * rates.get(name, 1.0), "eps": EPS * scales.get(name, 1.0)}
        for name, value in model.named_parameters()
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def state(model: nn.Module, adamw: torch.optim.AdamW) -> State:
    slots: State = {"weight": {}, "exp_avg": {}, "exp_avg_sq": {}}
    for name, value in model.named_parameters():
        slots["weight"][name] = value.detach().clone()
        for slot in ("exp_avg", "exp_avg_sq"):
            slots[slot][name] = adamw.state[value][slot].clone()
    return slots


def trained(steps: int = 20) -> tuple[GPT2LMHeadModel, torch.optim.AdamW]:
    model = small_model()
    adamw = optimizer(model, {}, {})
    for seed in range(steps):
        step(model, adamw, seed)
    return model, adamw


def planned(moments: str = "transport", noise: float = 0.0) -> GrowthPlan:
    small = resolve(small_model().config.to_dict())
    return plan(build(small, TO, width="staged", noise=noise), moments)  # type: ignore[arg-type]


def grown(made: GrowthPlan, old: State, steps: int, dropout: float, **options: Any) -> tuple[Any, Any]:
    """The large model and its AdamW, holding the grown state."""
    kinds = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    large = GPT2LMHeadModel(GPT2Config(**{**made.config, **kinds})).double()
    adamw = optimizer(large, options.get("rates", {}), options.get("scales", {}))
    view = GrownView(made, MemorySource(old))
    with torch.no_grad():
        for name, value in large.named_parameters():
            value.copy_(view.read(name, "weight"))
            moments = {slot: view.read(name, slot).clone() for slot in ("exp_avg", "exp_avg_sq")}
            adamw.state[value] = {"step": torch.tensor(float(steps)), **moments}
    return large.train(), adamw


def drift(moments: str, steps: int) -> float:
    """How far training and growing are from commuting."""
    model, adamw = trained()
    made = planned(moments)
    scales = {name: 1.0 if "ln_f" in name else 0.5 for name in made.large.parameters}
    large, large_adamw = grown(made, state(model, adamw), 20, 0.0, rates=multipliers(made), scales=scales)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    for seed in range(20, 20 + steps):
        step(model, adamw, seed)
        step(large, large_adamw, seed)
    now = {name: value.detach() for name, value in model.named_parameters()}
    folded = {name: fold(name, value.detach()) for name, value in large.named_parameters()}
    apart = max(float((now[name] - folded[name]).abs().max()) for name in now)
    return apart / max(float((now[name] - start[name]).abs().max()) for name in now)


def fold(name: str, value: Tensor) -> Tensor:
    """G_oᵀ W' F_i: the maps of exact first moments, transposed."""
    for dim, map_ in enumerate(planned().recipes["exp_avg"][name].terms[0].maps):
        value = map_.transposed(value, dim)
    return value


def swapped(name: str, value: Tensor) -> Tensor:
    """PWP: the halves of every growing dimension exchanged; GPT-2's c_attn holds three of them side by side."""
    if "c_attn" in name:
        split = value.unflatten(-1, (3, -1))
        moved = split.roll(split.shape[-1] // 2, -1).flatten(-2)
    else:
        moved = value.roll(value.shape[-1] // 2, -1)
    return moved if value.dim() < 2 or "wte" in name or "wpe" in name else moved.roll(len(value) // 2, 0)


def asymmetry(model: nn.Module) -> float:
    pairs = [(value.detach(), swapped(name, value.detach())) for name, value in model.named_parameters()]
    apart = sum(float((one - other).square().sum()) for one, other in pairs)
    return float((apart / sum(float(one.square().sum()) for one, _ in pairs)) ** 0.5)


def partings(
    moments: str, dropout: float, noise: float, at: tuple[int, ...], mirrored: bool = False
) -> list[float]:
    """Asymmetry after each number of steps; `mirrored` noise is the same for both halves (e = e')."""
    model, adamw = trained()
    large, large_adamw = grown(planned(moments, noise), state(model, adamw), 20, dropout)
    if mirrored:
        with torch.no_grad():
            for name, value in large.named_parameters():
                value.copy_((value + swapped(name, value)) / 2)
    found = []
    torch.manual_seed(1)
    for done in range(max(at) + 1):
        if done in at:
            found.append(asymmetry(large))
        step(large, large_adamw, 100 + done)
    return found


def main() -> None:
    print("moments        drift after 5   after 20")
    for moments in ("transport", "parts", "reset"):
        print(f"{moments:12}  {drift(moments, 5):14.1e} {drift(moments, 20):10.1e}")
    at = (0, 1, 20, 300)
    print("\nasymmetry                   " + "".join(f"{f'step {step}':>10}" for step in at))
    for title, options in {
        "exact, dropout 0": ("transport", 0.0, 0.0),
        "published, dropout 0": ("parts", 0.0, 0.0),
        "reset, dropout 0": ("reset", 0.0, 0.0),
        "published, dropout 0.1": ("parts", 0.1, 0.0),
        "exact, noise 0.1, e ≠ e'": ("transport", 0.0, 0.1),
    }.items():
        print(f"{title:28}" + "".join(f"{value:10.1e}" for value in partings(*options, at)))
    mirrored = partings("transport", 0.0, 0.1, at, mirrored=True)
    print(f"{'exact, noise 0.1, e = e’':28}" + "".join(f"{value:10.1e}" for value in mirrored))


if __name__ == "__main__":
    main()
