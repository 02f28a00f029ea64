"""A model cut among ranks by PyTorch's FSDP2: every layer is a unit, and what is outside of the layers is the last one.

    mesh (shard,)              every rank holds 1 / ranks of everything               FSDP
    mesh (replicate, shard)    groups of ranks hold the same, inside cut as above     HSDP
    mesh (..., tensor)         before that, layers are cut inside (`tensor.py`)       tensor parallel

Gradients are plain sums over ranks: the loss is divided by the step's targets beforehand, so no factor has to be rounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from outgrow.parallel.mesh import MeshSizes
from outgrow.parallel.pieces import local
from outgrow.parallel.tensor import cut_inside

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

        mesh = self.mesh
        if self.sizes.tensor > 1:
            cut_inside(model, mesh["tensor"])
            mesh = mesh[_names(self.sizes.replicate)]
        policy = MixedPrecisionPolicy()
        if self.parameters != torch.float32:
            policy = MixedPrecisionPolicy(param_dtype=self.parameters, reduce_dtype=self.gradients)
        units = [*(model.get_submodule(name) for name in layers), model]
        for unit in units:
            fully_shard(unit, mesh=mesh, reshard_after_forward=self.reshard_after_forward, mp_policy=policy)
            assert isinstance(unit, FSDPModule)
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum, and NCCL's loses bits

    @property
    def sizes(self) -> MeshSizes:
        """The dimensions of the mesh."""
        names = self.mesh.mesh_dim_names or ()
        return MeshSizes(**{name: self.mesh.size(dim) for dim, name in enumerate(names)})

    def describe(self) -> str:
        """For people."""
        names = self.mesh.mesh_dim_names or ()
        sizes = " x ".join(f"{name} {self.mesh.size(dim)}" for dim, name in enumerate(names))
        sent = str(self.parameters).removeprefix("torch.")
        return f"FSDP2 ({sizes}, parameters sent in {sent})"


def make_mesh(sizes: MeshSizes, device: str) -> DeviceMesh:
    """The mesh of a run; a dimension of one is left out where it is not the only one."""
    from torch.distributed.device_mesh import init_device_mesh

    names = _names(sizes.replicate) + (("tensor",) if sizes.tensor > 1 else ())
    return init_device_mesh(device, tuple(getattr(sizes, name) for name in names), mesh_dim_names=names)


def _names(replicate: int) -> tuple[str, ...]:
    """The dimensions that FSDP2 cuts over."""
    return ("shard",) if replicate == 1 else ("replicate", "shard")


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
    """The norm of all gradients together, a plain tensor with the same bits on every rank: parts of one size, then theirs.

    A gradient counts once, however many ranks hold it: sums go along the dimensions of a mesh that cut it.
    """
    groups: dict[tuple[DeviceMesh | None, tuple[int, ...]], list[Tensor]] = {}
    for one in gradients:
        mesh, dims = None, tuple[int, ...]()
        if isinstance(one, DTensor):
            mesh = one.device_mesh
            dims = tuple(dim for dim, place in enumerate(one.placements) if not place.is_replicate())
        groups.setdefault((mesh, dims), []).append(local(one))
    norms = [_over(mesh, dims, nn.utils.get_total_norm(group)) for (mesh, dims), group in groups.items()]
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()


def _over(mesh: DeviceMesh | None, dims: tuple[int, ...], norm: Tensor) -> Tensor:
    """The norm of parts that lie along these dimensions of a mesh, from this rank's."""
    if mesh is None:
        return norm
    square = norm.double().square()
    for dim in dims:
        torch.distributed.all_reduce(square, group=mesh.get_group(dim))
    return square.sqrt().to(norm.dtype)


def clip_gradients(parameters: Iterable[Tensor], most: float, norm: Tensor) -> None:
    """Scale all gradients down where their norm is more than `most`, mesh by mesh: no kernel takes two."""
    groups: dict[object, list[Tensor]] = {}
    for one in parameters:
        groups.setdefault(one.device_mesh if isinstance(one, DTensor) else None, []).append(one)
    for group in groups.values():
        nn.utils.clip_grads_with_norm_(group, most, norm)
