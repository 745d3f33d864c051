"""Miniature runs of one or two seconds on the bundled model, and readers for their files."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from service.contracts.catalog import load_catalog
from service.contracts.presets import merge
from service.contracts.runs import RunSpec
from worker.engine.training.event_log import EventWriter
from worker.engine.training.trainer import Trainer
from worker.entrypoints.train import build_trainer
from worker.shapes.caption_sampling import train_prompts


@dataclass(frozen=True)
class HalfRun:
    """A run of the first half of the steps of another run."""

    directory: Path
    changed: set[str]
    """Names of the parameters that the run changed."""
    unchanged: set[str]


FEW_PROMPTS: dict[str, Any] = {"items": list(train_prompts()[:40])}
"""A few prompts, because encoding the thousands of prompts of the bundled set takes longer than the run."""
MINIATURE: dict[str, Any] = {
    "sampling": {"steps": 5},
    "algorithm": {"group_size": 3, "sde_steps": [0, 2], "granularities": [1, 3]},
    "prompts": FEW_PROMPTS,
    "training": {"max_steps": 4, "prompts_per_step": 3, "update_batch_size": 3, "lora_rank": 4},
    "heldout": {"every": 2, "pairs": 4, "final_pairs": 8, "samples": 2},
    "checkpoints": {"every": 2},
}


def spec(**changes: Any) -> RunSpec:
    """The miniature with changed fields."""
    return RunSpec.model_validate(merge(MINIATURE, changes))


def trainer(directory: Path, **changes: Any) -> Trainer:
    """A run of the miniature that writes to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    return build_trainer(spec(**changes), load_catalog(), EventWriter(directory), "cpu")


def events(directory: Path, *types: str) -> list[dict[str, Any]]:
    """The run's events of these types, in order."""
    lines = (directory / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["type"] in types]


def metrics(directory: Path, pattern: str = "") -> list[tuple[int, str, float]]:
    """(step, name, value) of all metrics except seconds and memory, which differ between runs."""
    return [
        (event["step"], name, value)
        for event in events(directory, "metrics")
        for name, value in event["values"].items()
        if not name.startswith(("seconds/", "elapsed/seconds", "memory/")) and re.search(pattern, name)
    ]


def newest(directory: Path) -> dict[tuple[int, str], float]:
    """The latest value of each metric at each step."""
    return {(step, name): value for step, name, value in metrics(directory)}


def tensors(checkpoint: Path) -> dict[str, bytes]:
    """The bytes of all weight and optimizer tensors of a checkpoint. (The files' headers have no fixed order.)"""
    return {
        f"{path.name}:{name}": tensor.numpy().tobytes()
        for path in checkpoint.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


SMALL: dict[str, Any] = {
    "sampling": {"steps": 5},
    "prompts": FEW_PROMPTS,
    "training": {"max_steps": 4, "prompts_per_step": 2, "update_batch_size": 2, "lora_rank": 4},
    "heldout": {"every": 0},
    "checkpoints": {"every": 0},
}
"""A spec for runs of one second, for tests of the updates only."""


def small(directory: Path, **changes: Any) -> Trainer:
    """A run of SMALL that writes to `directory`, with G²RPO by default."""
    algorithm = {"algorithm": {"group_size": 2, "sde_steps": [0, 2]}}
    return trainer(directory, **merge(merge(SMALL, algorithm), changes))
