"""Runs of a tiny model with classifier-free guidance in the published layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.contracts.catalog import Catalog, ModelEntry, RewardEntry
from service.contracts.plan import Plan, make_plan
from service.contracts.presets import merge
from service.contracts.runs import RunSpec
from tests.worker.engine.models.tiny import PROMPTS
from worker.engine.models import load_model
from worker.engine.rewards.base import Reward
from worker.engine.training.distributed import Distributed
from worker.engine.training.event_log import EventWriter
from worker.engine.training.trainer import Trainer

CPU = torch.device("cpu")
SPEC: dict[str, Any] = {
    "sampling": {"steps": 4, "width": 32, "height": 16, "guidance": 3.5},
    "algorithm": {"group_size": 3, "sde_steps": [0, 1]},
    "rewards": [{"name": "redness"}],
    "prompts": {"items": PROMPTS},
    "training": {"max_steps": 2, "prompts_per_step": 2, "update_batch_size": 2, "lora_rank": 4},
    "heldout": {"every": 1, "pairs": 4, "final_pairs": 4, "samples": 1},
    "checkpoints": {"every": 1},
}


class Redness(Reward):
    """The share of red in the image."""

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Redness":
        return cls()

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images[:, 0].mean(dim=(1, 2))


def run(entry: ModelEntry, out: Path, resume: Path | None = None, **changes: Any) -> Plan:
    """A run of two steps that writes to `out`, and its plan."""
    spec = RunSpec.model_validate(merge(SPEC, {"model": entry.name, **changes}))
    out.mkdir()
    model = load_model(entry, CPU, torch.float32)
    trainer = Trainer(
        spec, model, {"redness": Redness()}, tuple(PROMPTS), tuple(PROMPTS), EventWriter(out), Distributed(CPU)
    )
    if resume is not None:
        trainer.checkpoints.resume(resume)
    trainer.run()
    return make_plan(spec, Catalog(models=(entry,), rewards=(), prompt_sets=()))
