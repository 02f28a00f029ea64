"""Every model type whose layers can be cut inside, one step on 2 slices against one process: `tensor_types.py [TYPE ...]`.

One line a type: why it is refused, or how far loss, norm and every gradient are from those of one process. Ends with 1 where a loss is
1e-5 off, or a gradient 1e-5 of the largest gradient of its model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers
from torch import nn

from distributed import forks
from outgrow.data.objectives import objective_of
from outgrow.engine.step import Device, build_for_training, optimizer_step
from outgrow.errors import OutgrowError
from outgrow.models.architecture import load_architecture
from outgrow.models.files import known
from outgrow.models.library import config_dict, config_object
from outgrow.parallel.mesh import MeshSizes
from outgrow.parallel.pieces import local_blocks
from outgrow.parallel.ranks import Ranks, start_ranks
from outgrow.parallel.sharding import Sharding, make_mesh
from outgrow.parallel.tensor import check_tensor
from outgrow.state.training_state import TrainingState

LOSS, GRADIENT = 1e-5, 1e-5
"""A loss near 4 has units of 5e-7 in the last place; a gradient is a sum over some 2,500 products of numbers that are off by 6e-8: 3e-6 of
the largest at random signs. One that misses a slice is off by a tenth of it and more."""
EVEN = {"vocab_size": 164, "pad_token_id": 0, "attention_dropout": 0.0, "residual_dropout": 0.0}
OWN: dict[str, dict[str, Any]] = {"gpt_neox": {"num_attention_heads": 4, "hidden_size": 24}}
"""Where the example's own sizes are odd on purpose."""


def config_of_type(name: str) -> dict[str, Any]:
    """The example of an architecture file, at sizes that two ranks share."""
    spec = load_architecture(name)
    assert spec.example is not None, f"{name} has no example"
    own = {**spec.example.config, **OWN.get(name, {}), "model_type": name}
    own |= {key: value for key, value in EVEN.items() if key in config_dict(config_object(own))}
    return {**config_dict(config_object(own)), "architectures": [spec.class_]}


def compared(config: dict[str, Any], ranks: Ranks) -> tuple[float, float, float]:
    """How far loss and norm are from one process, and the worst gradient as a share of the largest of its model."""
    torch.manual_seed(0)
    plain = build_for_training(config)
    with torch.no_grad():
        for one in plain.parameters():
            if one.ndim < 2:
                one.add_(0.3 * torch.randn(one.shape))
    sharding = Sharding(make_mesh(MeshSizes(tensor=ranks.world), "cpu"))
    sliced = Device("cpu", False, ranks=ranks, sharding=sharding)
    cut = sliced.build(config)
    TrainingState.from_model(plain).load_into(cut)
    torch.manual_seed(1)
    batch = objective_of(config).example({"vocab_size": 30} | config, 8, 8, 0.3)  # a wrapper's is inside

    def step(model: nn.Module, device: Device) -> Any:
        still = torch.optim.SGD(model.parameters(), lr=0.0)
        options: dict[str, Any] = {"learning_rate": 0.0, "micro_batch": 4, "clip": None, "seed": (0, 0)}
        return optimizer_step(model, still, batch, device=device, **options)

    alone, together = step(plain, Device("cpu", False)), step(cut, sliced)
    whole = {name: one.grad for name, one in plain.named_parameters() if one.grad is not None}
    largest = max(float(one.abs().max()) for one in whole.values())
    worst = 0.0
    for name, one in cut.named_parameters():
        assert (one.grad is None) == (name not in whole), name
        for box, memory in local_blocks(one.grad) if one.grad is not None else ():
            part = whole[name][tuple(slice(*span) for span in box)]
            worst = max(worst, float((memory - part).abs().max()) / largest)
    return together.loss - alone.loss, together.gradient_norm / alone.gradient_norm - 1, worst


def held(names: Sequence[str]) -> None:
    """One line a type, by rank 0; an AssertionError where one is off."""
    ranks = start_ranks()
    transformers.logging.set_verbosity_error()
    wrong = []
    for name in names:
        try:
            config = config_of_type(name)
            check_tensor(config, ranks.world, name)
        except OutgrowError as error:
            line = f"refused: {' '.join(str(error).split())[:150]}"
        else:
            loss, norm, gradient = compared(config, ranks)
            line = f"loss {loss:+.1e}, norm {norm:+.1e}, gradients {gradient:.1e}"
            if any(ranks.gather(abs(loss) > LOSS or gradient > GRADIENT)):
                wrong.append(name)
        if ranks.leads:
            print(f"{name:18} {line}", flush=True)
    assert not wrong, wrong


if __name__ == "__main__":
    described = [name for name in known() if load_architecture(name).example is not None]
    work = partial(held, sys.argv[1:] or described)
    sys.exit(int(forks.wait(forks.start(2, work), seconds=3600) != [0, 0]))
