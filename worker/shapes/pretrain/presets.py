"""Training presets for the shipped weights, and miniature presets for tests."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Plan:
    """Training settings of one stage."""

    steps: int
    batch: int
    learning_rate: float
    schedule_steps: int | None = None
    """Length of the learning-rate schedule, `steps` by default. Stopping before its end leaves room for alignment."""
    bfloat16: bool = False
    """Whether the models compute in bfloat16 under autocast, which halves the time on CPUs that support it."""


@dataclass(frozen=True)
class Preset:
    name: str
    pairs: int
    """Number of near-neighbor pairs in the training data."""
    scored_prompts: int
    """Number of prompts on which the scores in the model cards are measured."""
    clip: Plan
    flow: Plan
    autoencoder: Plan | None = None
    """None for a world that copies the autoencoder of another world."""
    seed: int = 20
    world: str = "shapes"
    """One of `worlds.WORLDS`."""


FULL = Preset(
    name="full",
    pairs=30000,
    scored_prompts=512,
    clip=Plan(steps=3000, batch=512, learning_rate=1e-3),
    autoencoder=Plan(steps=5000, batch=256, learning_rate=2e-3),
    flow=Plan(steps=4000, schedule_steps=6500, batch=512, learning_rate=1.5e-3),
)
MINIATURE = Preset(
    name="miniature",
    pairs=64,
    scored_prompts=4,
    clip=Plan(steps=4, batch=16, learning_rate=1e-3),
    autoencoder=Plan(steps=4, batch=8, learning_rate=2e-3),
    flow=Plan(steps=4, schedule_steps=8, batch=8, learning_rate=1.5e-3),
)
BENCH = Preset(
    name="bench",
    pairs=12000,
    scored_prompts=512,
    clip=Plan(steps=700, batch=128, learning_rate=8e-4, bfloat16=True),
    flow=Plan(steps=2500, schedule_steps=3200, batch=128, learning_rate=1e-3, bfloat16=True),
    world="shapes-bench",
)
"""Preset that starts from the weights of FULL and is sized for two CPU cores."""
BENCH_MINIATURE = replace(MINIATURE, name="bench-miniature", autoencoder=None, world=BENCH.world)
PRESETS = {preset.name: preset for preset in (FULL, MINIATURE, BENCH, BENCH_MINIATURE)}
