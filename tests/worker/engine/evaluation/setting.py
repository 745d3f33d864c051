"""Small benchmarks and jobs, and readers for the files of their attempts."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt, JudgePrompt, Point
from service.contracts.benchmarks.dimensions import SUB
from service.contracts.catalog import JudgeEntry
from service.contracts.evaluations import EvaluationJob, EvaluationSpec, ImageName, PendingImage
from worker.shapes.caption_sampling import heldout_prompts

WORDS = JudgePrompt(
    template="Of «{prompt}» tell {testpoint}. {explanation} {test_explanation} Say <score>[…]</score>.",
    definitions={one: f"{one}, as it should be" for one in SUB},
    definitions_heading="What they mean",
    descriptions_heading="Definitions",
)
POINTS = 3
UNREACHABLE_URL = "http://127.0.0.1:9/v1"
"""No server listens on this port."""


def benchmark(prompts: int = 3, name: str = "small") -> Benchmark:
    """Captions of the bundled world with three test points each. Their indices have gaps."""
    return Benchmark(
        name=name,
        title="Small",
        language="en",
        length="short",
        file="small.csv",
        data_sha256="0" * 64,
        pinned=False,
        prompts=tuple(
            BenchmarkPrompt(
                index=7 * number,
                text=text,
                category="Shapes",
                subcategory="Flat",
                subject="Shape",
                sentence_structure="Descriptive",
                points=tuple(
                    Point(name=one, dimension=one, description=f"thing {place}")
                    for place, one in enumerate((*SUB, *SUB)[number % len(SUB) :][:POINTS])
                ),
            )
            for number, text in enumerate(heldout_prompts(prompts))
        ),
        judge=WORDS,
    )


def entry(url: str, **changes: Any) -> JudgeEntry:
    """A judge with one thread."""
    values = {"name": "tester", "kind": "openai", "url": url, "model": "Looker-1", "concurrency": 1}
    return JudgeEntry.model_validate(values | changes)


def job(judge: JudgeEntry | None, prompts: int = 3, **spec: Any) -> EvaluationJob:
    """Two images per prompt, generated in two steps."""
    reported = {"model": "shapes-flux", "num_images": 2, "steps": 2, "judge": judge and judge.name}
    chosen = EvaluationSpec.model_validate(reported | spec)
    return EvaluationJob(spec=chosen, benchmark=benchmark(prompts), judge=judge, pending=(), done=())


def image_keys(job: EvaluationJob) -> list[tuple[int, int]]:
    """The keys of all images."""
    return [
        (prompt.index, image_index) for prompt in job.benchmark.prompts for image_index in range(job.spec.num_images)
    ]


def events(directory: Path, *types: str) -> list[dict[str, Any]]:
    """The events of these types of an attempt, in order. Incomplete lines of a killed attempt are ignored."""
    *lines, _ = (directory / "events.jsonl").read_text(encoding="utf-8").split("\n")
    return [event for event in map(json.loads, lines) if event["type"] in types or not types]


def image_key(event: dict[str, Any]) -> tuple[int, int]:
    return event["index"], event["image_index"]


def remaining_job(job: EvaluationJob, attempts: Iterable[Path]) -> EvaluationJob:
    """The job for the next attempt after some attempts, as the supervisor writes it."""
    drawn: set[tuple[int, int]] = set()
    answers: dict[tuple[int, int], dict[str, Any]] = {}
    for attempt in attempts:
        drawn |= {image_key(event) for event in events(attempt, "image")}
        answers |= {image_key(event): event for event in events(attempt, "answer")}
    done = {place for place in drawn if place in answers and answers[place]["scores"] is not None}
    return job.model_copy(
        update={
            "done": tuple(ImageName(index=index, image_index=image_index) for index, image_index in sorted(done)),
            "pending": tuple(
                PendingImage(
                    index=index,
                    image_index=image_index,
                    requests=answers.get((index, image_index), {"number": 0})["number"],
                )
                for index, image_index in sorted(drawn - done)
            ),
        }
    )


def files(directory: Path) -> dict[str, bytes]:
    """The directory of an attempt's images."""
    return {path.name: path.read_bytes() for path in (directory / "images").iterdir()}


def files_in_order(job: EvaluationJob, directory: Path) -> list[bytes]:
    """The image files, prompt by prompt."""
    return [files(directory)[f"{index}_{image_index}.png"] for index, image_index in image_keys(job)]


def pixels(png: bytes) -> bytes:
    """The pixels of an image file."""
    with Image.open(io.BytesIO(png)) as image:
        return image.tobytes()


def failed(directory: Path) -> dict[str, Any]:
    """The last event of an attempt, which must be a failure."""
    last = events(directory)[-1]
    assert last["type"] == "failed"
    return last
