"""The reward of `shapes-bench`'s world: the share of a caption's test points that an image meets."""

from collections.abc import Sequence

from torch import Tensor

from worker.engine.rewards.shapes_verifier import ShapesVerifierReward
from worker.shapes.bench.judge import bench_score
from worker.shapes.grammar import parse


class ShapesBenchVerifierReward(ShapesVerifierReward):
    """Partial credit in 0..1, read from the pixels. A prompt that is no caption of that world scores NaN."""

    def verify(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        return bench_score(images, captions)

    def read(self, prompt: str) -> object:
        return parse(prompt)
