"""How much of everything is trained: the preset that made the shipped weights, and a miniature one for tests."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipPlan:
    steps: int
    batch: int
    learning_rate: float = 1e-3
    picture_noise: float = 0.05
    """Largest standard deviation of the noise on training pictures, so that faint artefacts do not change the score."""


@dataclass(frozen=True)
class AutoencoderPlan:
    steps: int
    batch: int
    learning_rate: float = 2e-3
    kl_weight: float = 1e-4
    channels: tuple[int, int, int] = (8, 16, 32)
    """Widths at 32, 16 and 8 pixels. Narrow where pictures are large: decoding must be cheap on a CPU."""
    norm_groups: int = 2
    """Few, since a group of one channel would lose the mean that a plain background consists of."""


@dataclass(frozen=True)
class FlowPlan:
    steps: int
    schedule_steps: int
    """Length of the learning-rate schedule. Training stops at `steps`, before its end: alignment needs room."""
    batch: int
    learning_rate: float = 1.5e-3
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
    pairs=256,
    scored_prompts=8,
    clip=ClipPlan(steps=30, batch=32),
    autoencoder=AutoencoderPlan(steps=30, batch=16),
    flow=FlowPlan(steps=20, schedule_steps=40, batch=16),
)
PRESETS = {preset.name: preset for preset in (FULL, MINIATURE)}
