"""A model cut among ranks by PyTorch's FSDP2: every layer is a unit, and what is outside of the layers is the last one.

    mesh (shard,)              every rank holds 1 / ranks of everything               FSDP
    mesh (replicate, shard)    groups of ranks hold the same, inside cut as above     HSDP

Gradients are plain sums over ranks: the loss is divided by the step's targets beforehand, so no factor has to be rounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from outgrow.errors import ConfigError
from outgrow.parallel.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True, eq=False)
class Sharding:
    """How models are cut. `parameters` and `gradients` are what is sent between ranks; shards stay float32."""

    mesh: DeviceMesh
    reshard_after_forward: bool = True
    parameters: torch.dtype = torch.float32
    gradients: torch.dtype = torch.float32

    def apply(self, model: nn.Module, layers: Iterable[str]) -> None:
        """Cut a model, which may be on the meta device, in place; `layers` are the names of its layers."""
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy()
        if self.parameters != torch.float32:
            policy = MixedPrecisionPolicy(param_dtype=self.parameters, reduce_dtype=self.gradients)
        units = [*(model.get_submodule(name) for name in layers), model]
        for unit in units:
            fully_shard(
                unit, mesh=self.mesh, reshard_after_forward=self.reshard_after_forward, mp_policy=policy
            )
            assert isinstance(unit, FSDPModule)
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum, and NCCL's loses bits

    def describe(self) -> str:
        """For people."""
        names = self.mesh.mesh_dim_names or ()
        sizes = " x ".join(f"{name} {self.mesh.size(dim)}" for dim, name in enumerate(names))
        sent = str(self.parameters).removeprefix("torch.")
        return f"FSDP2 ({sizes}, parameters sent in {sent})"


def make_mesh(ranks: Ranks, shard: int | None, replicate: int, device: str) -> DeviceMesh:
    """The mesh of a run; `shard` is worked out where it is not given. Raises ConfigError where the ranks are other ones."""
    from torch.distributed.device_mesh import init_device_mesh

    wanted = replicate * (shard or max(1, ranks.world // replicate))
    if wanted != ranks.world:
        raise ConfigError(
            "parallel: the mesh is not that of the ranks",
            got=f"replicate {replicate} x shard {shard or 'auto'} for {ranks.world} ranks",
            expected="replicate x shard = the number of ranks",
            fix="leave out parallel.shard, or start as many processes",
        )
    if replicate == 1:
        return init_device_mesh(device, (ranks.world,), mesh_dim_names=("shard",))
    return init_device_mesh(
        device, (replicate, ranks.world // replicate), mesh_dim_names=("replicate", "shard")
    )


def is_sharded_model(model: nn.Module) -> bool:
    """Whether a live model is cut among ranks."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def send_gradients(model: nn.Module, *, now: bool) -> None:
    """Whether the next backward pass sums gradients over the ranks, or keeps them for a later one."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)


def let_go(model: nn.Module) -> None:
    """Drop what a forward pass without a backward gathered, so that `parameters()` are the shards again."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.reshard()


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients together, a plain tensor with the same bits on every rank; one norm a mesh, then theirs."""
    groups: dict[object, list[Tensor]] = {}
    for one in gradients:
        groups.setdefault(one.device_mesh if isinstance(one, DTensor) else None, []).append(one)
    norms = [nn.utils.get_total_norm(group) for group in groups.values()]
    norms = [one.full_tensor() if isinstance(one, DTensor) else one for one in norms]
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()
