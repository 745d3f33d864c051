"""Interrupted, resumed and extended runs, and re-imported weights, give the same results with the real engine."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image, ImageChops
from safetensors.torch import load_file

from service.client import Client
from service.contracts.status import JobStatus
from service.local.stack import Stack

pytestmark = pytest.mark.long

Eventually = Callable[[Callable[[], object]], None]


def measured(client: Client, id: Any) -> dict[str, tuple[list[int], list[float | None]]]:
    """All curves except durations, which differ between runs."""
    curves = client.curves(id, max_points=10_000).curves
    return {
        one.name: (one.steps, one.values)
        for one in curves
        if not one.name.startswith(("seconds/", "elapsed/seconds", "memory/"))
    }


def rewards(client: Client, id: Any) -> list[Any]:
    """The newest reward groups of every step."""
    groups = [group.model_dump(exclude={"attempt"}) for group in client.rewards(id)]
    return sorted(groups, key=lambda group: [str(value) for value in group.values()])


def tensors(client: Client, id: Any, directory: Path) -> dict[str, bytes]:
    """All weight and optimizer tensors of the newest checkpoint of a run."""
    newest = next(client.checkpoints(id))
    files = client.download(newest.id, directory / str(id))
    return {
        f"{path.name}:{name}": tensor.numpy().tobytes()
        for path in files
        if path.suffix == ".safetensors"
        for name, tensor in load_file(path).items()
    }


@pytest.mark.timeout(900)
def test_a_paused_killed_resumed_and_extended_run_equals_the_uninterrupted_one(
    client: Client, g2rpo: Any, stack: Stack, tiny: dict[str, Any], eventually: Eventually, tmp_path: Path
) -> None:
    def spec(max_steps: int) -> dict[str, Any]:
        training = {**tiny["training"], "max_steps": max_steps}
        # All evaluations have the same number of pairs, so that an extended run has the curves of an uninterrupted run.
        evaluation = {**tiny["heldout"], "every": 3, "pairs": 8, "final_pairs": 8}
        return {**tiny, "training": training, "checkpoints": {"every": 0}, "heldout": evaluation}

    # Enough steps, so that the run does not finish before it receives the requests.
    id = client.create_run(spec(100_000)).id
    eventually(lambda: client.run(id).status is JobStatus.STARTING)
    client.pause(id)  # while the run is loading
    eventually(lambda: client.run(id).status is JobStatus.PAUSED)

    client.resume(id)
    eventually(lambda: client.run(id).status is JobStatus.RUNNING and client.run(id).metrics)
    assert client.save(id).checkpoint_pending
    eventually(lambda: list(client.checkpoints(id)))
    worker = psutil.Process(stack.processes["worker-train"])
    children = worker.children()
    assert len(children) == 1
    worker.kill()
    eventually(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))

    eventually(lambda: client.run(id).attempt == 3 and client.run(id).status is JobStatus.RUNNING)
    assert "is running" in g2rpo("runs", "checkpoint", id).output
    assert "is paus" in g2rpo("runs", "pause", id).output
    assert f"run {id}: paused" in g2rpo("runs", "show", id, "--watch").output  # the stream ends when the run pauses
    assert client.run(id).worker is None

    end = 3 * (next(client.checkpoints(id)).step // 3 + 2)
    assert g2rpo("runs", "resume", id, "--max-steps", end).output.strip() == str(id)
    straight = client.create_run(spec(end + 2)).id
    assert client.wait_for_run(id, timeout=300).status is JobStatus.SUCCEEDED
    client.resume(id, max_steps=end + 2)  # resumes a finished run
    ended = [client.wait_for_run(one, timeout=300) for one in (straight, id)]

    assert [(run.status, run.max_steps) for run in ended] == [(JobStatus.SUCCEEDED, end + 2)] * 2
    assert ended[0].heldout == ended[1].heldout
    assert measured(client, straight) == measured(client, id)
    assert rewards(client, straight) == rewards(client, id)
    assert len(rewards(client, id)) == (end + 2) * 8
    assert tensors(client, straight, tmp_path) == tensors(client, id, tmp_path)
    outcomes = [attempt.outcome for attempt in client.attempts(id)]
    assert outcomes == ["succeeded", "succeeded", "paused", "interrupted", "paused"]
    listed = g2rpo("runs", "attempts", id).output
    assert all(word in listed for word in ("paused", "lost", "succeeded", "cpu"))


def test_an_imported_lora_generates_the_images_of_its_source(client: Client, finished: Any, tmp_path: Path) -> None:
    origin = next(client.checkpoints(finished.id))
    weights = next(path for path in client.download(origin.id, tmp_path) if "lora" in path.name)
    imported = client.import_checkpoint(weights, model="shapes-flux", name="from outside")
    assert imported.manifest["lora_alpha"] == client.checkpoint(origin.id).manifest["lora_alpha"]

    spec = {"checkpoints": [str(origin.id), str(imported.id)], "prompts": ["a small red circle on white"], "seed": 5}
    generation = client.generate(spec, wait=120)
    assert generation.status is JobStatus.SUCCEEDED, generation.error
    one, other = (Image.open(io.BytesIO(client.image(generation.id, number))) for number in (0, 1))
    assert ImageChops.difference(one, other).getbbox() is None
