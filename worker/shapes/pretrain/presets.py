"""How much of everything is trained: the preset that made the shipped weights, and a miniature one for tests."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ClipPlan:
    steps: int
    batch: int
    learning_rate: float = 1e-3
    bfloat16: bool = False
    """Whether the models compute in bfloat16 under autocast: on a CPU that knows it, in half the time."""
    image_noise: float = 0.05
    """Largest standard deviation of the noise on training images, so that faint artefacts do not change the score."""


@dataclass(frozen=True)
class AutoencoderPlan:
    steps: int
    batch: int
    learning_rate: float = 2e-3
    kl_weight: float = 1e-4
    channels: tuple[int, int, int] = (8, 16, 32)
    """Widths at 32, 16 and 8 pixels. Narrow where images are large: decoding must be cheap on a CPU."""
    norm_groups: int = 2
    """Few, since a group of one channel would lose the mean that a plain background consists of."""


@dataclass(frozen=True)
class FlowPlan:
    steps: int
    schedule_steps: int
    """Length of the learning-rate schedule. Training stops at `steps`, before its end: alignment needs room."""
    batch: int
    learning_rate: float = 1.5e-3
    bfloat16: bool = False
    snapshots: tuple[int, ...] = ()
    """Steps after which the weights are also written to `DIR/snapshots/STEP`, to choose where to stop."""


@dataclass(frozen=True)
class Preset:
    name: str
    pairs: int
    """Pairs of neighbouring scenes in the training data."""
    scored_prompts: int
    """Held-out prompts that the measured scores in the model cards are taken on."""
    clip: ClipPlan
    autoencoder: AutoencoderPlan
    flow: FlowPlan
    seed: int = 20
    world: str = "shapes"
    """One of `worlds.WORLDS`."""


FULL = Preset(
    name="full",
    pairs=30000,
    scored_prompts=512,
    clip=ClipPlan(steps=3000, batch=512),
    autoencoder=AutoencoderPlan(steps=5000, batch=256),
    flow=FlowPlan(steps=4000, schedule_steps=6500, batch=512),
)
MINIATURE = Preset(
    name="miniature",
    pairs=64,
    scored_prompts=4,
    clip=ClipPlan(steps=4, batch=16),
    autoencoder=AutoencoderPlan(steps=4, batch=8),
    flow=FlowPlan(steps=4, schedule_steps=8, batch=8),
)
BENCH = Preset(
    name="bench",
    pairs=12000,
    scored_prompts=512,
    clip=ClipPlan(steps=700, batch=128, learning_rate=8e-4, bfloat16=True),
    autoencoder=AutoencoderPlan(steps=0, batch=0),
    flow=FlowPlan(
        steps=2500,
        schedule_steps=3200,
        batch=128,
        learning_rate=1e-3,
        bfloat16=True,
        snapshots=(800, 1200, 1600, 2000),
    ),
    world="shapes-bench",
)
"""On two CPU cores, from the weights of FULL."""
BENCH_MINIATURE = replace(
    BENCH, name="bench-miniature", pairs=64, scored_prompts=4, clip=MINIATURE.clip, flow=MINIATURE.flow
)
PRESETS = {preset.name: preset for preset in (FULL, MINIATURE, BENCH, BENCH_MINIATURE)}
