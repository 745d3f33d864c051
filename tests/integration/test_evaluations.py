"""Evaluations over HTTP to the end: real images of a real model, generated and judged by a worker process."""

import io
import os
import signal
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from service.client import Client
from service.contracts.status import JobStatus
from service.local.stack import Stack

pytestmark = pytest.mark.long

Eventually = Callable[[Callable[[], object]], None]
PROMPTS, IMAGES = 30, 4


def spec(name: str, **changed: Any) -> dict[str, Any]:
    return {"name": name, "limit": 10, "num_images": 2, "steps": 8, "rewards": ["clip_score_2"], **changed}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.fixture(scope="module")
def base(stack: Stack, eventually: Eventually) -> Any:
    """An evaluation of the base model that succeeded after its first process was killed."""
    with Client(stack.url) as client:
        id = client.evaluate(spec("base", limit=PROMPTS, num_images=IMAGES)).id
        eventually(lambda: client.evaluation(id).judged > 0)
        worker = psutil.Process(stack.processes["worker-evaluate"])
        (child,) = (one for one in worker.children() if "worker.entrypoints.evaluate" in one.cmdline())
        os.killpg(child.pid, signal.SIGKILL)
        done = client.wait_for_evaluation(id, timeout=240, every=0.2)
    assert done.status is JobStatus.SUCCEEDED, done.error
    return done


def test_an_evaluation_with_a_killed_process_is_finished_by_another_attempt(client: Client, base: Any) -> None:
    every = PROMPTS * IMAGES
    assert (base.attempt, base.images, base.judged, base.failed) == (2, every, every, 0)
    assert [answer.number for answer in client.answers(base.id, tries="all")] == [1] * every


def test_images_equal_those_of_a_generation(client: Client, base: Any) -> None:
    images = list(islice(client.evaluation_images(base.id), IMAGES))
    assert [image.seed for image in images] == [3407, 3408, 3409, 3410]
    [prompt] = {image.prompt for image in images}
    drawing = {"model": "shapes-flux-2", "prompts": [prompt], "seed": 3407, "num_images": IMAGES, "steps": 8}
    generation = client.generate(drawing, wait=200)
    for image, generated in zip(images, generation.images, strict=True):
        assert (pixels(client.fetch_image(image.url)) == pixels(client.fetch_image(generated.url))).all()


def test_a_checkpoint_and_its_base_are_evaluated_and_compared(client: Client, base: Any, sent: Any) -> None:
    checkpoint = next(iter(client.checkpoints(sent.run.id))).id
    created = client.evaluate(spec("aligned", checkpoint=str(checkpoint)))
    aligned = client.wait_for_evaluation(created.id, timeout=240, every=0.2)
    assert aligned.status is JobStatus.SUCCEEDED, aligned.error
    assert (aligned.images, aligned.judged, aligned.failed) == (20, 20, 0)
    for one in (base, aligned):
        assert one.scores is not None and one.scores.micro.total > 20
        assert one.rewards["clip_score_2"].failures == 0
    compared = client.compare_evaluations(base.id, aligned.id)
    assert compared.scores is not None and compared.scores.prompts == 10
    assert client.gallery(base.id, beside=[aligned.id], count=2).startswith(b"\x89PNG")
