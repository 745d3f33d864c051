"""The processes of one run: each has a share of the prompts of every step, and all hold the same policy."""

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

from worker.engine.training.event_log import Cancelled, Paused

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""How long a rank waits for the others: one of them may be saving. A hung run is ended by who watches its progress."""
_SUMMED = ("nfe/", "images/", "elapsed/nfe")
_WIDEST = ("memory/",)


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run. Alone, nothing here does anything.

    Whatever speaks to other ranks must be called by all of them, equally often and in the same order.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes events, images and checkpoints."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """The places among `total` that are this rank's: consecutive ones, of the last ranks fewer where it must be."""
        each = -(-total // self.world)
        return range(min(self.rank * each, total), min((self.rank + 1) * each, total))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, elementwise, the same bits on each."""
        if self.world == 1 or not tensor.numel():
            return tensor
        total: Tensor = reduce(tensor.detach().to(self.device), reduction="sum")
        return total.to(tensor.device)

    def whole(self, part: Tensor, total: int, dim: int = 0) -> Tensor:
        """All ranks' parts in their places: `part` has, along `dim`, the places `share(total)`."""
        if self.world == 1:
            return part
        places = self.share(total)
        result = part.new_zeros((*part.shape[:dim], total, *part.shape[dim + 1 :]))
        result.narrow(dim, places.start, len(places)).copy_(part)
        return self.sum(result)

    def tell(self, value: T) -> list[T]:
        """What every rank says, in their order."""
        said: list[T] = [value] if self.world == 1 else gather_object([value])
        return said

    def agree(self, value: T) -> T:
        """What the leading rank says."""
        return self.tell(value)[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """All ranks leave what is enclosed in one way: asked to stop, each may notice at another batch, or not at all.

        Within, ranks must not wait for each other. Raises Cancelled or Paused on all of them if it is raised on one.
        """
        if self.world == 1:
            yield
            return
        wish = 0
        try:
            yield
        except Paused:
            wish = 1
        except Cancelled:
            wish = 2
        match max(self.tell(wish)):
            case 1:
                raise Paused
            case 2:
                raise Cancelled

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of all ranks, in one exchange. Sharded parameters' are added up by themselves."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
        if not gradients:
            return
        total = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(total, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def combine(self, values: Mapping[str, float]) -> dict[str, float]:
        """Metrics of the run from those of its ranks: work added up, the widest memory; a rank may lack a name.

        All else is the leading rank's: seconds, and what is the same on all of them.
        """
        said = self.tell({name: value for name, value in values.items() if name.startswith((*_SUMMED, *_WIDEST))})
        combined = dict(values)
        for name in {name: None for own in said for name in own}:
            each = [own[name] for own in said if name in own]
            combined[name] = max(each) if name.startswith(_WIDEST) else sum(each)
        return combined

    def mesh(self) -> DeviceMesh | None:
        """The ranks as sharded weights see them; None for one alone, which has them whole."""
        return init_device_mesh(self.device.type, (self.world,)) if self.world > 1 else None

    def leave(self) -> None:
        """Part from the others, once all have come here."""
        if self.world > 1:
            PartialState().wait_for_everyone()
            PartialState().destroy_process_group()


def device_named(device: str | None) -> torch.device:
    """The device of that name, else CUDA where there is one, else the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def join(device: str | None = None, rendezvous: str | None = None) -> Ranks:
    """This process among those that were started with it, by the environment variables that torchrun also sets.

    rendezvous: where they find each other, as `init_process_group` takes it; None: what the environment says. They
    speak through NCCL on CUDA, through Gloo on the CPU. Without such variables it is alone.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks(device_named(device))
    rank = int(os.environ["RANK"])
    where = {"init_method": rendezvous} if rendezvous else {}
    on_cpu = device_named(device).type == "cpu"
    state = PartialState(cpu=on_cpu, rank=rank, world_size=world, timeout=_PATIENCE, **where)
    return Ranks(state.device, rank, world)
