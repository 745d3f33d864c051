"""Runs of a tiny model in float64, alone or as one of several ranks.

In float64 the sum of two halves is the whole but for 1e-15, so that what several processes compute can be told from
what one computes if it is not the same.
"""

from pathlib import Path
from typing import Any

import torch

from service.contracts.runs import RunSpec
from tests.worker.engine.models.tiny import PROMPTS, entry
from tests.worker.engine.training.guided import Redness
from worker.engine.models import load_model
from worker.engine.training.distributed import Ranks
from worker.engine.training.event_log import EventWriter, Unheard
from worker.engine.training.trainer import Trainer

MODEL = "flux-dev"


def perform(place: Path, directory: Path, spec: dict[str, Any], ranks: Ranks, resume: str | None = None) -> None:
    """One run of the model in `place` from its start, or from a checkpoint, to its end."""
    directory.mkdir(parents=True, exist_ok=True)
    run = RunSpec.model_validate(spec)
    model = load_model(entry(MODEL, place), ranks.device, torch.float64)
    events = EventWriter(directory) if ranks.leads else Unheard(directory)
    trainer = Trainer(run, model, {"redness": Redness()}, tuple(PROMPTS), tuple(PROMPTS), events, ranks)
    if resume is not None:
        trainer.resume(Path(resume))
    trainer.run()
    events.close()
