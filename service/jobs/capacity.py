"""Check whether a run fits the number and memory of the devices of the available workers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.contracts.memory import PhaseMemory
from service.contracts.plan import Plan
from service.contracts.runs import RunSpec
from service.core.settings import Settings
from service.db.models import Run, Worker
from service.http.errors import FieldError

_GPU = "gpu_memory_total_bytes."
_HOST = "memory_total_bytes"


@dataclass(frozen=True)
class Devices:
    """The largest device count and memory of the available training workers."""

    max_count: int | None
    """Maximum number of devices of a single worker, or None if no worker reports it."""
    memory: Mapping[str, int]
    """Memory in bytes of the largest GPU (`gpu`) and of the largest host that has no GPU (`host`), if any."""

    def room(self, processes: int) -> int | None:
        """Return the maximum number of bytes available to each of `processes` processes, or None if it is unknown.

        The processes share the memory of a host, but not that of a GPU.
        """
        sizes = [size if kind == "gpu" else size // processes for kind, size in self.memory.items()]
        return max(sizes, default=None)


def available(session: Session, settings: Settings) -> Devices:
    """Return the best devices reported by training workers with a recent heartbeat."""
    recent = func.now() - timedelta(seconds=settings.worker_timeout_seconds)
    rows = session.scalars(select(Worker.stats).where(Worker.heartbeat_at > recent, Worker.queue == Run.QUEUE)).all()
    sizes: dict[str, list[int]] = {"devices": [], "gpu": [], "host": []}
    for name, value in (item for stats in rows for item in stats.items()):
        kind = "gpu" if name.startswith(_GPU) else {_HOST: "host", "devices": "devices"}.get(name)
        if kind is not None:
            sizes[kind].append(int(value))
    count = max(sizes.pop("devices"), default=None)
    return Devices(count, {kind: max(found) for kind, found in sizes.items() if found})


def errors(spec: RunSpec, plan: Plan, devices: Devices) -> Iterator[FieldError]:
    """Yield the reasons why no available worker can execute the run."""
    processes = spec.resources.processes_per_node
    if processes > 1 and devices.max_count is not None and processes > devices.max_count:
        yield FieldError(
            loc=["body", "resources", "processes_per_node"],
            msg=f"{processes} processes need a device each, but no worker has more than {devices.max_count}; "
            f"must be between 1 and {devices.max_count} (on a CPU, each core is one device)",
            type="too_many_processes",
        )
    room = devices.room(processes)
    if plan.memory is not None and room is not None and plan.memory.total > room:
        msg = _too_big(spec, plan.memory.peak_phase, room)
        yield FieldError(loc=["body", "model"], msg=msg, type="does_not_fit_the_device")


def warnings(spec: RunSpec, plan: Plan, devices: Devices) -> Iterator[str]:
    """Yield a warning for each requirement that cannot be checked because no available worker reports its devices."""
    processes = spec.resources.processes_per_node
    if plan.memory is not None and devices.room(processes) is None:
        yield (
            f"model {spec.model}: no worker reports its device memory; a process of this run needs about "
            f"{gigabytes(plan.memory.total)}"
        )
    if processes > 1 and devices.max_count is None:
        yield (
            f"resources.processes_per_node {processes}: no worker reports its number of devices; the run waits for a "
            "worker with enough devices"
        )


def gigabytes(size: int) -> str:
    """Format a number of bytes in decimal GB or MB, the units used in GPU specifications."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _too_big(spec: RunSpec, peak: PhaseMemory, room: int) -> str:
    parts = sorted(peak.parts.items(), key=lambda part: -part[1])
    listed = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts)
    return (
        f"a process needs about {gigabytes(peak.total)} in the phase {peak.phase} ({listed}), and the largest device "
        f"of the available workers has {gigabytes(room)}; {_remedies(spec, peak)}"
    )


def _remedies(spec: RunSpec, peak: PhaseMemory) -> str:
    """Describe the settings that would reduce the memory needed in the phase `peak`."""
    training, sampling, resources = spec.training, spec.sampling, spec.resources
    update, scoring = peak.phase == "update", peak.phase == "scoring"
    rewards = peak.phase != "scoring" and peak.parts.get("rewards", 0) and not resources.offload_rewards
    known = (
        (training.adapter == "full", "training.adapter lora"),
        (training.adapter == "full", "more resources.processes_per_node"),
        (update and not training.gradient_checkpointing, "training.gradient_checkpointing true"),
        (update and training.update_batch_size > 1, "a smaller training.update_batch_size"),
        (scoring and sampling.decode_batch_size > 1, "a smaller sampling.decode_batch_size"),
        (peak.phase == "rollout" and sampling.rollout_batch_size > 1, "a smaller sampling.rollout_batch_size"),
        (rewards, "resources.offload_rewards true"),
        (training.adapter == "lora" and training.lora_rank > 16, "a smaller training.lora_rank"),
        (peak.parts.get("trajectories", 0) > peak.total / 20, "fewer training.prompts_per_step"),
        (True, "smaller images"),
    )
    return "reduce memory with " + ", ".join(words for helps, words in known if helps)
