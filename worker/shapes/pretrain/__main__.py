"""Train the bundled weights: `python -m worker.shapes.pretrain --out DIR` runs all stages or a single one."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch

from worker.shapes.pretrain.autoencoder import train_autoencoder
from worker.shapes.pretrain.card import write_cards
from worker.shapes.pretrain.clip import train_clip
from worker.shapes.pretrain.flow import train_flow
from worker.shapes.pretrain.presets import PRESETS, Preset
from worker.shapes.pretrain.scores import measure, measure_bench
from worker.shapes.pretrain.worlds import WORLDS


def score(preset: Preset, out: Path, device: str) -> None:
    """Measure the scores of the weights in `out` and write the model cards and the score record."""
    world = WORLDS[preset.world]
    flux, clip = out / world.flux, out / world.clip
    if world.start:
        scores = measure_bench(flux, clip, preset.scored_prompts, device)
    else:
        scores = measure(flux, clip, preset.scored_prompts, preset.seed, device)
    write_cards(out, world, scores)
    (out / "records" / "scores.json").write_text(json.dumps(scores, indent=2))
    print(json.dumps(scores), flush=True)


STAGES: dict[str, Callable[[Preset, Path, str], None]] = {
    "clip": train_clip,
    "autoencoder": train_autoencoder,
    "flow": train_flow,
    "score": score,
}
"""The stages in order. `flow` needs the results of `clip` and `autoencoder`; `score` needs the results of all three."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.shapes.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for weights and records")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="full")
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if arguments.stage == "all" else [arguments.stage]:
        STAGES[stage](PRESETS[arguments.preset], arguments.out, arguments.device)


if __name__ == "__main__":
    main()
