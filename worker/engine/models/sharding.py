"""Weights in shards over several processes (FSDP2)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(transformer: Any, mesh: DeviceMesh, compute: torch.dtype) -> None:
    """Shard a diffusers transformer, block by block, over `mesh`; forwards compute in `compute`, gradients are sums."""
    # Inputs keep their precision, as without shards: rotary embeddings would not survive bfloat16.
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=transformer.dtype, cast_forward_inputs=False)
    for module in transformer.modules():
        if type(module).__name__ in transformer._no_split_modules:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(transformer, mesh=mesh, mp_policy=policy)
    for module in (module for module in transformer.modules() if isinstance(module, FSDPModule)):
        module.set_gradient_divide_factor(1.0)  # the losses are parts of one mean already
        module.set_force_sum_reduction_for_comms(True)  # Gloo supports only sums


def unsharded(transformer: Any, compute: torch.dtype) -> Any:
    """A plain copy with complete weights in `compute`, for sampling without waiting for other processes.

    (FSDP can keep weights gathered, but its hooks are not thread-safe.)
    """
    weights = {name: whole(tensor.to(compute)) for name, tensor in transformer.state_dict().items()}
    return _plain(transformer, weights).requires_grad_(False).eval()


def whole(tensor: Tensor) -> Tensor:
    """The complete tensor of a possibly sharded one; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The complete tensors, one after the other, on the CPU if they were sharded; empty unless `keep`."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if keep:
            found[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return found


def whole_model(transformer: Any, keep: bool) -> Any:
    """A diffusers transformer with complete weights, on the CPU if they were sharded; None unless `keep`."""
    if not is_sharded(transformer):
        return transformer if keep else None
    weights = whole_tensors(transformer.state_dict(), keep)
    if not keep:
        return None
    return _plain(transformer, weights)


def like(tensor: Tensor, target: Tensor) -> Tensor:
    """This process's part of a whole `tensor`, if `target` is sharded; every process has the whole one."""
    if not isinstance(target, DTensor):
        return tensor
    return distribute_tensor(tensor.to(target.device), target.device_mesh, target.placements, src_data_rank=None)


def _plain(transformer: Any, weights: Mapping[str, Tensor]) -> Any:
    """A transformer of the same configuration without shards, from `weights`."""
    original: Any = type(transformer).__mro__[2]  # FSDP inserts a class and FSDPModule before it
    with torch.device("meta"):
        model = original.from_config(transformer.config)
    model.load_state_dict(weights, assign=True)
    for name, buffer in transformer.named_buffers():  # some of which are not in the state
        owner, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(owner), own_name, buffer)
    return model


def is_sharded(transformer: Any) -> bool:
    """Whether `shard` was applied."""
    return isinstance(transformer, FSDPModule)
