"""The bundled world's judge: it reads the pixels by classical vision."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from service.contracts.benchmarks.bundled import BUNDLED
from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt
from service.contracts.benchmarks.judging import read_answer
from service.contracts.catalog import JudgeEntry
from worker.engine.evaluation.judges.base import Judge, Said
from worker.shapes.bench.judge import judge_seen
from worker.shapes.bench.perception import perceive
from worker.shapes.seen import SeenImage


class PerceptionJudge(Judge):
    """Judges images of the bundled world on the bundled world's own benchmark."""

    concurrency = 1

    def __init__(self, entry: JudgeEntry) -> None:
        self.entry = entry

    @classmethod
    def load(cls, entry: JudgeEntry, benchmark: Benchmark) -> "PerceptionJudge":
        if benchmark.name != BUNDLED:
            raise ValueError(
                f"judge {entry.name!r} judges the benchmark {BUNDLED!r} alone, not {benchmark.name!r}: "
                "choose a judge of kind `openai`"
            )
        return cls(entry)

    def ask(self, prompt: BenchmarkPrompt, image: bytes) -> Said:
        begun = time.monotonic()
        images = _pixels(image)
        try:
            with _one_core():
                seen = perceive(images)[0]
            scores = judge_seen([seen], [prompt])[0]
        except ValueError as error:
            return Said.nothing(str(error), time.monotonic() - begun)
        text = f"{_in_words(seen)} <score>{list(scores)}</score>"
        return Said(text, read_answer(text, len(prompt.points)), seconds=time.monotonic() - begun)


@contextmanager
def _one_core() -> Iterator[None]:
    """Within: this thread computes alone. One image is too little to share, and others draw meanwhile.

    The number is each thread's own, but also that of threads to come.
    """
    own = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(own)


def _pixels(png: bytes) -> Tensor:
    """A file as [1, 3, height, width] in 0..1."""
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).contiguous()


def _in_words(seen: SeenImage) -> str:
    things = [
        f"a {thing.size} {thing.style} {thing.color} {thing.shape or 'thing of no known shape'} "
        f"at ({thing.x:.0f}, {thing.y:.0f})"
        for thing in seen.objects
    ]
    return f"Background: {seen.background or 'none that is known'}. Seen: {'; '.join(things) or 'nothing'}."
