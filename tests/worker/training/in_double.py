"""Runs in float64, alone or as one of several ranks.

In float64 the sum of two halves is the whole but for 1e-15, so that what several processes compute can be told from
what one computes if it is not the same.
"""

from pathlib import Path
from typing import Any

import torch

from service.contracts.catalog import load_catalog
from service.contracts.runs import RunSpec
from worker.models import load_model
from worker.rewards.clip import ClipReward
from worker.shapes.grammar import heldout_prompts, train_prompts
from worker.training.events import EventWriter, Unheard
from worker.training.ranks import Ranks
from worker.training.trainer import Trainer


def perform(directory: Path, spec: dict[str, Any], ranks: Ranks, resume: str | None = None) -> None:
    """One run from its start, or from a checkpoint, to its end."""
    directory.mkdir(parents=True, exist_ok=True)
    catalog, run = load_catalog(), RunSpec.model_validate(spec)
    model = load_model(catalog.model(run.model), ranks.device, torch.float64)
    rewards = {"clip_score": ClipReward.load(catalog.reward("clip_score"), ranks.device, torch.float64)}
    events = EventWriter(directory) if ranks.leads else Unheard(directory)
    trainer = Trainer(run, model, rewards, train_prompts(), heldout_prompts(), events, ranks)
    if resume is not None:
        trainer.resume(Path(resume))
    trainer.run()
    events.close()
