"""Whether a run fits the devices of the workers that are there: how many, and how much memory each has."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.contracts.memory import PhaseMemory
from service.contracts.plan import Plan
from service.contracts.runs import RunSpec
from service.core.settings import Settings
from service.db.models import Worker
from service.http.errors import FieldError

_GPU = "gpu_memory_total_bytes."
_MEMORY = "memory_total_bytes"


@dataclass(frozen=True)
class Devices:
    """Of the best equipped of the training workers heard of lately; None where none says."""

    most: int | None
    memory: Mapping[bool, int]
    """Bytes of the largest card (True), and of the machine with most memory among those without cards (False)."""

    def room(self, processes: int) -> int | None:
        """Bytes that one of so many processes can have where there is most; they share a machine without cards."""
        each = [size if card else size // processes for card, size in self.memory.items()]
        return max(each, default=None)


def present(session: Session, settings: Settings) -> Devices:
    """What the training workers heard of lately say of their devices."""
    lately = func.now() - timedelta(seconds=settings.worker_timeout_seconds)
    rows = session.scalars(select(Worker.stats).where(Worker.heartbeat_at > lately, Worker.queue == "train")).all()
    counts = [int(stats["devices"]) for stats in rows if "devices" in stats]
    memory: dict[bool, int] = {}
    for stats in rows:
        for card, size in _memories(stats):
            memory[card] = max(size, memory.get(card, 0))
    return Devices(max(counts, default=None), memory)


def refusals(spec: RunSpec, plan: Plan, devices: Devices) -> Iterator[FieldError]:
    """Why no worker that is there could do the run."""
    processes = spec.resources.processes_per_node
    if processes > 1 and devices.most is not None and processes > devices.most:
        yield FieldError(
            loc=["body", "resources", "processes_per_node"],
            msg=f"{processes} processes need a device each, and no worker has more than {devices.most}; "
            f"allowed are 1 to {devices.most}, on a CPU one per core",
            type="too_many_processes",
        )
    room = devices.room(processes)
    if plan.memory is not None and room is not None and plan.memory.total > room:
        yield FieldError(
            loc=["body", "model"], msg=_too_big(spec, plan.memory.most, room), type="does_not_fit_the_device"
        )


def warnings(spec: RunSpec, plan: Plan, devices: Devices) -> Iterator[str]:
    """What cannot be known of a run's devices while no worker is there to say it."""
    processes = spec.resources.processes_per_node
    if plan.memory is not None and devices.room(processes) is None:
        yield (
            f"model {spec.model}: no worker is there to say how much memory its devices have; a process of this run "
            f"needs about {gigabytes(plan.memory.total)}"
        )
    if processes > 1 and devices.most is None:
        yield (
            f"resources.processes_per_node {processes}: no worker is there to say how many devices it has; the run "
            "waits for one that has so many"
        )


def gigabytes(size: int) -> str:
    """A number of bytes, in the unit that GPUs are sold by."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _memories(stats: Mapping[str, Any]) -> Iterable[tuple[bool, int]]:
    for name, size in stats.items():
        if name.startswith(_GPU) or name == _MEMORY:
            yield name != _MEMORY, int(size)


def _too_big(spec: RunSpec, most: PhaseMemory, room: int) -> str:
    parts = sorted(most.parts.items(), key=lambda part: -part[1])
    listed = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts)
    return (
        f"a process would need about {gigabytes(most.total)} in the phase {most.phase} ({listed}), and the largest "
        f"device of the workers that are there has {gigabytes(room)}; {_remedies(spec, most)}"
    )


def _remedies(spec: RunSpec, most: PhaseMemory) -> str:
    """What would need less in that phase, of what the spec has not done yet."""
    training, sampling, resources = spec.training, spec.sampling, spec.resources
    update, scoring = most.phase == "update", most.phase == "scoring"
    rewards = most.phase != "scoring" and most.parts.get("rewards", 0) and not resources.offload_rewards
    known = (
        (training.adapter == "full", "training.adapter lora"),
        (training.adapter == "full", "more resources.processes_per_node"),
        (update and not training.gradient_checkpointing, "training.gradient_checkpointing true"),
        (update and training.update_batch_size > 1, "a smaller training.update_batch_size"),
        (scoring and sampling.decode_batch_size > 1, "a smaller sampling.decode_batch_size"),
        (most.phase == "rollout" and sampling.rollout_batch_size > 1, "a smaller sampling.rollout_batch_size"),
        (rewards, "resources.offload_rewards true"),
        (training.adapter == "lora" and training.lora_rank > 16, "a smaller training.lora_rank"),
        (most.parts.get("trajectories", 0) > most.total / 20, "fewer training.prompts_per_step"),
        (True, "smaller images"),
    )
    return "less is needed with " + ", ".join(words for helps, words in known if helps)
