"""The objects that the parts of a run share."""

from dataclasses import dataclass

from service.contracts.runs import RunSpec
from worker.engine.models.base import FlowModel, ImageSize
from worker.engine.training.cost_meter import CostMeter
from worker.engine.training.distributed import Distributed
from worker.engine.training.event_log import EventWriter
from worker.engine.training.progress import ProgressReporter


@dataclass(frozen=True)
class RunContext:
    """Spec, model, event writer, processes, progress and costs of a run."""

    spec: RunSpec
    model: FlowModel
    events: EventWriter
    distributed: Distributed
    progress: ProgressReporter
    meter: CostMeter

    @property
    def size(self) -> ImageSize:
        """Size of the run's images."""
        return ImageSize(self.spec.sampling.width, self.spec.sampling.height)

    @property
    def rewards(self) -> dict[str, float]:
        """Weights of the trained rewards, by name."""
        return {reward.name: reward.weight for reward in self.spec.rewards}

    @property
    def shard(self) -> range:
        """Indices of this process's prompts among those of a step."""
        return self.distributed.shard(self.spec.training.prompts_per_step)
