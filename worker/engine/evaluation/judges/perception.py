"""The judge for the bundled world, which analyzes the pixels with classical computer vision."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from service.contracts.benchmarks.bundled import BUNDLED
from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt
from service.contracts.benchmarks.judge_answers import read_answer
from service.contracts.catalog import JudgeEntry
from worker.engine.evaluation.judges.base import Judge, JudgeResponse
from worker.engine.models.images import read_png
from worker.shapes.bench.judge import judge_seen
from worker.shapes.bench.perception import perceive
from worker.shapes.image_content import PerceivedImage


class PerceptionJudge(Judge):
    """Judges images of the bundled world on the bundled benchmark."""

    concurrency = 1

    def __init__(self, entry: JudgeEntry) -> None:
        self.entry = entry

    @classmethod
    def load(cls, entry: JudgeEntry, benchmark: Benchmark) -> "PerceptionJudge":
        if benchmark.name != BUNDLED:
            raise ValueError(
                f"judge {entry.name!r} supports only the benchmark {BUNDLED!r}, not {benchmark.name!r}; "
                "use a judge of kind `openai`"
            )
        return cls(entry)

    def ask(self, prompt: BenchmarkPrompt, image: bytes) -> JudgeResponse:
        started = time.monotonic()
        images = read_png(image).unsqueeze(0)
        try:
            with _one_core():
                seen = perceive(images)[0]
            scores = judge_seen([seen], [prompt])[0]
        except ValueError as error:
            return JudgeResponse.nothing(str(error), time.monotonic() - started)
        text = f"{_in_words(seen)} <score>{list(scores)}</score>"
        return JudgeResponse(text, read_answer(text, len(prompt.points)), seconds=time.monotonic() - started)


@contextmanager
def _one_core() -> Iterator[None]:
    """Use only one core in this thread, because one image is too small to parallelize and sampling needs the others.

    The setting applies to the current thread, but it is also the default for threads started later, so it is restored.
    """
    own = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(own)


def _in_words(seen: PerceivedImage) -> str:
    things = [
        f"a {thing.size} {thing.style} {thing.color} {thing.shape or 'object of unknown shape'} "
        f"at ({thing.x:.0f}, {thing.y:.0f})"
        for thing in seen.objects
    ]
    return f"Background: {seen.background or 'unknown'}. Seen: {'; '.join(things) or 'nothing'}."
