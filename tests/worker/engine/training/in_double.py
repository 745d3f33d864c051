"""Runs of a tiny model in float64, alone or as one of several processes.

In float64, rounding is about 1e-15, so that any other difference between one and several processes is visible.
"""

from pathlib import Path
from typing import Any

import torch

from service.contracts.runs import RunSpec
from tests.worker.engine.models.tiny import PROMPTS, entry
from tests.worker.engine.training.guided import Redness
from worker.engine.models import load_model
from worker.engine.training.distributed import Distributed
from worker.engine.training.event_log import EventWriter, NullEventWriter
from worker.engine.training.trainer import Trainer

MODEL = "flux-dev"


def perform(
    place: Path, directory: Path, spec: dict[str, Any], distributed: Distributed, resume: str | None = None
) -> None:
    """A complete run of the model in `place`, from the beginning or from a checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    run = RunSpec.model_validate(spec)
    model = load_model(entry(MODEL, place), distributed.device, torch.float64)
    events = EventWriter(directory) if distributed.is_main else NullEventWriter(directory)
    trainer = Trainer(run, model, {"redness": Redness()}, tuple(PROMPTS), tuple(PROMPTS), events, distributed)
    if resume is not None:
        trainer.checkpoints.resume(Path(resume))
    trainer.run()
    events.close()
