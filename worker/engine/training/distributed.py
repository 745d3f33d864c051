"""Communication between the processes of a run.

Each process handles a shard of every step's prompts, and all processes hold the same policy.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from worker.engine.precision import default_device
from worker.engine.training.event_log import Cancelled, Paused

T = TypeVar("T")

_TIMEOUT = timedelta(days=7)
"""Timeout for collective operations.

It is long because another process may be saving. The supervisor stops a run that reports no progress.
"""
_STOPS = (Paused, Cancelled)
"""Stop requests in increasing order of precedence."""
_SUMMED = ("nfe/", "images/", "elapsed/nfe")
_MAXIMUM = ("memory/",)


@dataclass(frozen=True)
class Distributed:
    """This process and its place among the processes of the run.

    All processes must call the collective operations in the same order. For a single process, they change nothing.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes events, images and checkpoints."""
        return self.rank == 0

    def shard(self, total: int) -> range:
        """Return this process's consecutive indices among `total` indices.

        If they cannot be divided equally, the last processes get fewer.
        """
        size = -(-total // self.world_size)
        return range(min(self.rank * size, total), min((self.rank + 1) * size, total))

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the elementwise sum over all processes, bit-identical in each of them."""
        if self.world_size == 1 or not tensor.numel():
            return tensor
        total: Tensor = reduce(tensor.detach().to(self.device), reduction="sum")
        return total.to(tensor.device)

    def all_gather(self, part: Tensor, total: int, dim: int = 0) -> Tensor:
        """Concatenate the parts of all processes along `dim`. Each part covers its process's indices `shard(total)`."""
        if self.world_size == 1:
            return part
        indices = self.shard(total)
        result = part.new_zeros((*part.shape[:dim], total, *part.shape[dim + 1 :]))
        result.narrow(dim, indices.start, len(indices)).copy_(part)
        return self.all_reduce(result)

    def all_gather_object(self, value: T) -> list[T]:
        """Return the values of all processes, ordered by rank."""
        values: list[T] = [value] if self.world_size == 1 else gather_object([value])
        return values

    def broadcast(self, value: T) -> T:
        """Return the main process's value in every process."""
        return self.all_gather_object(value)[0]

    @contextmanager
    def synchronized_stop(self) -> Iterator[None]:
        """Raise Paused or Cancelled in all processes if any of them raises it in the enclosed block.

        Processes read the control file at different times, so some of them might otherwise continue alone.
        """
        request = 0
        try:
            yield
        except (Paused, Cancelled) as stop:
            request = _STOPS.index(type(stop)) + 1
        if newest := max(self.all_gather_object(request)):
            raise _STOPS[newest - 1]

    def reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum the gradients over all processes in one exchange.

        Gradients of sharded parameters are skipped, because FSDP reduces them itself.
        """
        if self.world_size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
        if not gradients:
            return
        total = self.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(total, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def reduce_metrics(self, values: Mapping[str, float]) -> dict[str, float]:
        """Combine the metrics of all processes.

        Metrics of work (NFE and images) are summed, and memory metrics are maximized. Each may be missing in some
        processes. All other metrics keep this process's value.
        """
        reduced = (*_SUMMED, *_MAXIMUM)
        gathered = self.all_gather_object({name: value for name, value in values.items() if name.startswith(reduced)})
        combined = dict(values)
        for name in dict.fromkeys(name for own in gathered for name in own):
            each = [own[name] for own in gathered if name in own]
            combined[name] = max(each) if name.startswith(_MAXIMUM) else sum(each)
        return combined

    def device_mesh(self) -> DeviceMesh | None:
        """Return the mesh for sharded weights, or None for a single process, whose weights are not sharded."""
        return init_device_mesh(self.device.type, (self.world_size,)) if self.world_size > 1 else None

    def shut_down(self) -> None:
        """Wait until all processes have called this method, then destroy the process group."""
        if self.world_size > 1:
            PartialState().wait_for_everyone()
            PartialState().destroy_process_group()


def init_distributed(device: str | None = None, init_method: str | None = None) -> Distributed:
    """Initialize this process from torchrun's environment variables, or as a single process if they are not set.

    init_method: the argument of `torch.distributed.init_process_group`, or None to use the environment variables. The
    backend is NCCL on CUDA and Gloo on the CPU.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Distributed(default_device(device))
    rank = int(os.environ["RANK"])
    options = {"init_method": init_method} if init_method else {}
    cpu = default_device(device).type == "cpu"
    state = PartialState(cpu=cpu, rank=rank, world_size=world_size, timeout=_TIMEOUT, **options)
    return Distributed(state.device, rank, world_size)
