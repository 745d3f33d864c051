"""The processes of one run: each has a shard of every step's prompts, and all hold the same policy."""

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
"""Of collective operations: another process may be saving. The supervisor ends a run that reports no progress."""
_STOPS = (Paused, Cancelled)
"""In order of precedence, the last one first."""
_SUMMED = ("nfe/", "images/", "elapsed/nfe")
_MAXIMUM = ("memory/",)


@dataclass(frozen=True)
class Distributed:
    """This process among the processes of its run; with one process, every operation is the identity.

    Collective operations must be called by all processes, in the same order.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes events, images and checkpoints."""
        return self.rank == 0

    def shard(self, total: int) -> range:
        """This process's consecutive indices among `total`; the last processes have fewer if it does not divide."""
        size = -(-total // self.world_size)
        return range(min(self.rank * size, total), min((self.rank + 1) * size, total))

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The elementwise sum over all processes, with the same bits in each."""
        if self.world_size == 1 or not tensor.numel():
            return tensor
        total: Tensor = reduce(tensor.detach().to(self.device), reduction="sum")
        return total.to(tensor.device)

    def all_gather(self, part: Tensor, total: int, dim: int = 0) -> Tensor:
        """Concatenate all processes' parts along `dim`, where each has the indices `shard(total)`."""
        if self.world_size == 1:
            return part
        indices = self.shard(total)
        result = part.new_zeros((*part.shape[:dim], total, *part.shape[dim + 1 :]))
        result.narrow(dim, indices.start, len(indices)).copy_(part)
        return self.all_reduce(result)

    def all_gather_object(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        values: list[T] = [value] if self.world_size == 1 else gather_object([value])
        return values

    def broadcast(self, value: T) -> T:
        """The main process's value."""
        return self.all_gather_object(value)[0]

    @contextmanager
    def synchronized_stop(self) -> Iterator[None]:
        """Raise Paused or Cancelled in all processes if one of them raises it in the enclosed block.

        Processes read the control file at different times; without this, some would continue alone.
        """
        request = 0
        try:
            yield
        except (Paused, Cancelled) as stop:
            request = _STOPS.index(type(stop)) + 1
        if newest := max(self.all_gather_object(request)):
            raise _STOPS[newest - 1]

    def reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum the gradients of all processes in one exchange. FSDP reduces those of sharded parameters itself."""
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
        """Metrics of the run from those of its processes: sums of work, maximum of memory, otherwise the main one's.

        A process may lack a name.
        """
        reduced = (*_SUMMED, *_MAXIMUM)
        gathered = self.all_gather_object({name: value for name, value in values.items() if name.startswith(reduced)})
        combined = dict(values)
        for name in dict.fromkeys(name for own in gathered for name in own):
            each = [own[name] for own in gathered if name in own]
            combined[name] = max(each) if name.startswith(_MAXIMUM) else sum(each)
        return combined

    def device_mesh(self) -> DeviceMesh | None:
        """The mesh for sharded weights; None with one process, whose weights are whole."""
        return init_device_mesh(self.device.type, (self.world_size,)) if self.world_size > 1 else None

    def shut_down(self) -> None:
        """Destroy the process group, once all processes have called this."""
        if self.world_size > 1:
            PartialState().wait_for_everyone()
            PartialState().destroy_process_group()


def init_distributed(device: str | None = None, init_method: str | None = None) -> Distributed:
    """Initialize from torchrun's environment variables; a single process without them.

    init_method: as `torch.distributed.init_process_group` takes it; None: the environment's. The backend is NCCL on
    CUDA and Gloo on the CPU.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Distributed(default_device(device))
    rank = int(os.environ["RANK"])
    options = {"init_method": init_method} if init_method else {}
    cpu = default_device(device).type == "cpu"
    state = PartialState(cpu=cpu, rank=rank, world_size=world_size, timeout=_TIMEOUT, **options)
    return Distributed(state.device, rank, world_size)
