"""The clipped objective."""

from torch import Tensor


def clipped_objective(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """max(−A·r, −A·clip(r, 1−c, 1+c)), elementwise: each sample's loss. Source: PPO, as GRPO uses it."""
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return (-advantages * ratio).maximum(-advantages * clipped)
