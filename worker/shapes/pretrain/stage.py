"""The training loop shared by all stages, with checkpoints for resuming and a record of each stage."""

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from worker.shapes.pretrain.presets import Plan, Preset

REPORTS = 10
"""Number of points in the recorded loss curve."""
CHECKPOINT_STEPS = 500


class Stage:
    """Trains one stage with AdamW and a one-cycle schedule and writes `OUT/records/STAGE.json`.

    An interrupted stage resumes from `OUT/checkpoints/STAGE.pt` with the same results. Random numbers for training
    must come from `generator`.
    """

    def __init__(self, name: str, preset: Preset, out: Path, device: str, seed: int) -> None:
        self.name, self.preset, self.out, self.device = name, preset, out, device
        self.plan: Plan = getattr(preset, name)
        self.generator = torch.Generator().manual_seed(seed)
        self._losses: list[Tensor] = []
        self._start = time.monotonic()

    def train(
        self,
        models: Sequence[nn.Module],
        loss: Callable[[], Tensor],
        max_norm: float = float("inf"),
        after_step: Callable[[], None] = lambda: None,
        checkpoint_steps: int = CHECKPOINT_STEPS,
    ) -> None:
        """Minimize `loss()` over the weights of `models`, with gradients clipped to `max_norm`."""
        plan, path = self.plan, self.out / "checkpoints" / f"{self.name}.pt"
        parameters = [parameter for model in models for parameter in model.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=1e-3)
        steps = plan.schedule_steps or plan.steps
        schedule = OneCycleLR(optimizer, max_lr=plan.learning_rate, total_steps=steps, pct_start=0.1)
        stateful: Sequence[Any] = (*models, optimizer, schedule)
        if path.is_file():
            saved = torch.load(path, self.device, weights_only=True)
            for part, state in zip(stateful, saved["states"], strict=True):
                part.load_state_dict(state)
            self.generator.set_state(saved["generator"].cpu())
            self._losses = list(saved["losses"])
        while len(self._losses) < plan.steps:
            value = loss()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(value)
            if max_norm < float("inf"):
                torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()
            schedule.step()
            after_step()
            # The loss stays on its device: fetching it would synchronize at every step.
            self._losses.append(value.detach())
            self._report()
            if len(self._losses) % checkpoint_steps == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
                states = [part.state_dict() for part in stateful]
                state = {"states": states, "generator": self.generator.get_state(), "losses": torch.stack(self._losses)}
                torch.save(state, path.with_suffix(".partial"))
                path.with_suffix(".partial").replace(path)

    def _report(self) -> None:
        step, width = len(self._losses), max(1, self.plan.steps // REPORTS)
        if step % width == 0:
            recent = float(torch.stack(self._losses[-width:]).mean())
            seconds = time.monotonic() - self._start
            print(f"{self.name} {step}/{self.plan.steps}: loss {recent:.4f}, {seconds:.0f} s", flush=True)

    def _curve(self) -> dict[int, float]:
        """Compute the mean loss of each tenth of the steps, keyed by its last step."""
        losses = torch.stack(self._losses).cpu()
        width = max(1, len(losses) // REPORTS)
        ends = range(width, len(losses) + 1, width)
        return {end: round(float(losses[end - width : end].mean()), 5) for end in ends}

    def finish(self, **facts: Any) -> None:
        """Write the record of the stage, including the measured `facts`, and delete the checkpoint."""
        record = {
            "stage": self.name,
            "preset": asdict(self.preset),
            "date": datetime.now(UTC).date().isoformat(),
            "device": torch.cuda.get_device_name() if self.device.startswith("cuda") else f"{platform.machine()} CPU",
            "seconds": round(time.monotonic() - self._start, 1),
            "versions": {module.__name__: module.__version__ for module in (torch, diffusers, transformers)},
            "loss": self._curve(),
            **facts,
        }
        path = self.out / "records" / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2))
        (self.out / "checkpoints" / f"{self.name}.pt").unlink(missing_ok=True)
        print(f"{self.name}: done in {record['seconds']} s, {facts}", flush=True)


def read_record(out: Path, stage: str) -> dict[str, Any]:
    """Read the record of a finished stage."""
    record: dict[str, Any] = json.loads((out / "records" / f"{stage}.json").read_text())
    return record
