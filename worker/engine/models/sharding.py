"""Sharding of transformer weights over several processes (FSDP2)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(transformer: Any, mesh: DeviceMesh, compute: torch.dtype) -> None:
    """Shard a diffusers transformer block by block over `mesh`.

    Forward passes use the dtype `compute`. Gradients are summed over the processes, not averaged.
    """
    # Inputs keep their precision, as in an unsharded model: rotary embeddings would lose too much in bfloat16.
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=transformer.dtype, cast_forward_inputs=False)
    for module in transformer.modules():
        if type(module).__name__ in transformer._no_split_modules:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(transformer, mesh=mesh, mp_policy=policy)
    for module in (module for module in transformer.modules() if isinstance(module, FSDPModule)):
        module.set_gradient_divide_factor(1.0)  # each process's loss is already its part of one mean
        module.set_force_sum_reduction_for_comms(True)  # Gloo supports only sums


def unsharded(transformer: Any, compute: torch.dtype) -> Any:
    """Return an unsharded copy with complete weights in the dtype `compute`.

    The copy samples without waiting for other processes. FSDP could keep its weights gathered instead, but its hooks
    are not thread-safe.
    """
    weights = {name: whole(tensor.to(compute)) for name, tensor in transformer.state_dict().items()}
    return _plain(transformer, weights).requires_grad_(False).eval()


def whole(tensor: Tensor) -> Tensor:
    """Return the complete tensor for a tensor that may be sharded. Every process must call this function."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Gather the complete tensors one at a time and return them, or an empty dict if `keep` is false.

    Tensors that were sharded are moved to the CPU. Every process must call this function.
    """
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if keep:
            found[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return found


def whole_model(transformer: Any, keep: bool) -> Any:
    """Return a diffusers transformer with complete weights, or None if `keep` is false.

    Weights that were sharded are moved to the CPU. Every process must call this function.
    """
    if not is_sharded(transformer):
        return transformer if keep else None
    weights = whole_tensors(transformer.state_dict(), keep)
    if not keep:
        return None
    return _plain(transformer, weights)


def like(tensor: Tensor, target: Tensor) -> Tensor:
    """Shard `tensor` like `target`, or return it unchanged if `target` is not sharded.

    Every process must pass the same complete `tensor`.
    """
    if not isinstance(target, DTensor):
        return tensor
    return distribute_tensor(tensor.to(target.device), target.device_mesh, target.placements, src_data_rank=None)


def _plain(transformer: Any, weights: Mapping[str, Tensor]) -> Any:
    """Build an unsharded transformer with the same configuration from `weights`."""
    original: Any = type(transformer).__mro__[2]  # FSDP inserts a class and FSDPModule before it
    with torch.device("meta"):
        model = original.from_config(transformer.config)
    model.load_state_dict(weights, assign=True)
    for name, buffer in transformer.named_buffers():  # some buffers are not in the state dict
        owner, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(owner), own_name, buffer)
    return model


def is_sharded(transformer: Any) -> bool:
    """Whether `shard` was applied to the transformer."""
    return isinstance(transformer, FSDPModule)
