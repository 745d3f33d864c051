"""What a training stage leaves behind besides weights: losses, times and versions, for the model card."""

import json
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from worker.shapes.pretrain.presets import Preset

REPORTS = 10
"""How many points of the loss curve are kept."""


class StageRecord:
    """Collects one stage's losses and writes `OUT/records/STAGE.json`."""

    def __init__(self, stage: str, preset: Preset, device: str) -> None:
        self.stage = stage
        self.preset = preset
        self.device = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine() + " CPU"
        self.started = time.monotonic()
        self.losses: list[Tensor] = []

    def step(self, loss: Tensor) -> None:
        # The loss stays where it is: fetching it would wait for the device at every step.
        self.losses.append(loss.detach())
        steps: int = getattr(self.preset, self.stage).steps
        width = max(1, steps // REPORTS)
        if len(self.losses) % width == 0:
            recent = float(torch.stack(self.losses[-width:]).mean())
            seconds = time.monotonic() - self.started
            print(f"{self.stage} {len(self.losses)}/{steps}: loss {recent:.4f}, {seconds:.0f} s", flush=True)

    def curve(self) -> dict[int, float]:
        """Mean loss of each tenth of the steps so far, by last step."""
        losses = torch.stack(self.losses).cpu()
        width = max(1, len(losses) // REPORTS)
        ends = range(width, len(losses) + 1, width)
        return {end: round(float(losses[end - width : end].mean()), 5) for end in ends}

    def finish(self, out: Path, **facts: Any) -> None:
        """Writes the record; `facts` are what this stage measured."""
        record = {
            "stage": self.stage,
            "preset": asdict(self.preset),
            "date": datetime.now(UTC).date().isoformat(),
            "device": self.device,
            "seconds": round(time.monotonic() - self.started, 1),
            "versions": {
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
                "transformers": transformers.__version__,
            },
            "loss": self.curve(),
            **facts,
        }
        path = out / "records" / f"{self.stage}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2))
        print(f"{self.stage}: done in {record['seconds']} s, {facts}", flush=True)


def read_record(out: Path, stage: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((out / "records" / f"{stage}.json").read_text())
    return record


def optimiser(
    parameters: Iterable[torch.nn.Parameter], learning_rate: float, steps: int
) -> tuple[torch.optim.AdamW, OneCycleLR]:
    """AdamW under a one-cycle schedule, as every stage uses it."""
    adam = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-3)
    return adam, OneCycleLR(adam, max_lr=learning_rate, total_steps=steps, pct_start=0.1)
