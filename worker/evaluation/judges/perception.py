"""The bundled world's judge: it reads the pixels by classical vision."""

import io
import time

import numpy as np
import torch
from PIL import Image

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt
from service.contracts.benchmarks.judging import read_answer
from service.contracts.catalog import JudgeEntry
from worker.evaluation.judges.base import Judge, Said
from worker.shapes.perception import SeenPicture, perceive

BENCHMARK = "shapes-bench"
"""The one benchmark it can judge."""


class PerceptionJudge(Judge):
    """Judges pictures of the bundled world on the bundled world's own benchmark."""

    concurrency = 1  # it computes, and what it computes has all cores

    def __init__(self, entry: JudgeEntry) -> None:
        from worker.shapes.bench import judge_points  # type: ignore[import-not-found, unused-ignore]

        self.entry = entry
        self._judge_points = judge_points

    @classmethod
    def load(cls, entry: JudgeEntry, benchmark: Benchmark) -> "PerceptionJudge":
        if benchmark.name != BENCHMARK:
            raise ValueError(
                f"judge {entry.name!r} judges the benchmark {BENCHMARK!r} alone, not {benchmark.name!r}: "
                "choose a judge of kind `openai`"
            )
        return cls(entry)

    def ask(self, prompt: BenchmarkPrompt, picture: bytes) -> Said:
        begun = time.monotonic()
        pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=np.float32) / 255
        pictures = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
        try:
            scores = self._judge_points(pictures, [prompt.text])[0]
        except ValueError as error:
            return Said.nothing(str(error), time.monotonic() - begun)
        text = f"{_in_words(perceive(pictures)[0])} <score>{list(scores)}</score>"
        return Said(text, read_answer(text, len(prompt.points)), seconds=time.monotonic() - begun)


def _in_words(seen: SeenPicture) -> str:
    things = [
        f"a {thing.size} {thing.colour} {thing.shape or 'thing of no known shape'} at ({thing.x:.0f}, {thing.y:.0f})"
        for thing in seen.objects
    ]
    return f"Background: {seen.background or 'none that is known'}. Seen: {'; '.join(things) or 'nothing'}."
