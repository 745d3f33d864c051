"""Evaluations over HTTP to the end: real pictures of a real model, drawn and judged by a worker's child."""

import io
import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
from PIL import Image

from service.client import Client
from service.contracts.status import JobStatus
from service.embedded.stack import Stack

Eventually = Callable[[Callable[[], object]], None]
SPEC: dict[str, Any] = {"limit": 10, "num_images": 2, "steps": 2, "rewards": ["clip_score_2"]}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_checkpoint_and_its_base_are_judged_and_compared(client: Client, tiny: Any) -> None:
    world = {"model": "shapes-flux-2", "prompts": {"set": "shapes-bench-train"}, "rewards": [{"name": "clip_score_2"}]}
    held = {"evaluation": {**tiny["evaluation"], "prompts": "shapes-bench-heldout"}}
    run = client.wait_for_run(client.create_run({**tiny, **world, **held}).id, timeout=240, every=0.2)
    assert run.status is JobStatus.SUCCEEDED, run.error
    checkpoint = next(iter(client.checkpoints(run.id))).id
    specs = ({**SPEC, "name": "base"}, {**SPEC, "name": "aligned", "checkpoint": str(checkpoint)})
    made = [client.evaluate(spec) for spec in specs]
    base, aligned = (client.wait_for_evaluation(one.id, timeout=240, every=0.2) for one in made)
    for one in (base, aligned):
        assert one.status is JobStatus.SUCCEEDED, one.error
        assert (one.pictures, one.judged, one.failed) == (20, 20, 0)
        assert one.scores is not None and one.scores.micro.total > 20
        assert one.rewards["clip_score_2"].failures == 0
    compared = client.compare_evaluations(base.id, aligned.id)
    assert compared.scores is not None and compared.scores.prompts == 10
    assert client.gallery(base.id, beside=[aligned.id], count=2).startswith(b"\x89PNG")


def test_pictures_are_those_that_generate_draws(client: Client) -> None:
    spec = {**SPEC, "judge": None, "limit": 1}
    made = client.wait_for_evaluation(client.evaluate(spec).id, timeout=240, every=0.2)
    first, second = client.evaluation_pictures(made.id)
    assert (first.seed, second.seed) == (3407, 3408)
    drawn = client.generate(
        {"model": "shapes-flux-2", "prompts": [first.prompt], "seed": 3407, "num_images": 2, "steps": 2}, wait=200
    )
    for picture, image in zip((first, second), drawn.images, strict=True):
        assert (pixels(client.picture(picture.url)) == pixels(client.picture(image.url))).all()


def test_one_whose_process_is_killed_is_finished_by_another(
    client: Client, stack: Stack, eventually: Eventually
) -> None:
    id = client.evaluate({**SPEC, "limit": 100, "num_images": 4, "steps": 8}).id
    eventually(lambda: client.evaluation(id).judged > 0)
    worker = psutil.Process(stack.processes["worker-evaluate"])
    (child,) = (one for one in worker.children() if "worker.entrypoints.evaluate" in one.cmdline())
    os.killpg(child.pid, signal.SIGKILL)
    done = client.wait_for_evaluation(id, timeout=240, every=0.2)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert done.attempt == 2 and done.judged == 400
    asked = [answer.number for answer in client.answers(id, tries="all")]
    assert asked == [1] * 400
