"""Objects shared by the components of a run."""

from dataclasses import dataclass

from service.contracts.runs import RunSpec
from worker.engine.models.base import FlowModel, ImageSize
from worker.engine.training.cost_meter import CostMeter
from worker.engine.training.distributed import Distributed
from worker.engine.training.event_log import EventWriter
from worker.engine.training.progress import ProgressReporter


@dataclass(frozen=True)
class RunContext:
    """The spec, model, event writer, processes, progress and cost meter of a run."""

    spec: RunSpec
    model: FlowModel
    events: EventWriter
    distributed: Distributed
    progress: ProgressReporter
    meter: CostMeter

    @property
    def size(self) -> ImageSize:
        """The image size of the run."""
        return ImageSize(self.spec.sampling.width, self.spec.sampling.height)

    @property
    def rewards(self) -> dict[str, float]:
        """The weights of the training rewards by name."""
        return {reward.name: reward.weight for reward in self.spec.rewards}

    @property
    def shard(self) -> range:
        """The indices of this process's prompts within a step."""
        return self.distributed.shard(self.spec.training.prompts_per_step)
