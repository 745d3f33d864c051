"""Runs that are paused, saved, resumed, extended and imported, with the real engine: what they compute is the same."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops
from safetensors.torch import load_file

from service.client import Client
from service.contracts.status import JobStatus

Eventually = Callable[[Callable[[], object]], None]


def measured(client: Client, id: Any) -> dict[str, tuple[list[int], list[float | None]]]:
    """All curves but seconds, which no two runs share."""
    curves = client.curves(id, max_points=10_000).curves
    return {
        one.name: (one.steps, one.values)
        for one in curves
        if not one.name.startswith(("seconds/", "elapsed/seconds", "memory/"))
    }


def rewards(client: Client, id: Any) -> list[Any]:
    """The reward groups of every step, each step's newest."""
    groups = [group.model_dump(exclude={"attempt"}) for group in client.rewards(id)]
    return sorted(groups, key=lambda group: [str(value) for value in group.values()])


def tensors(client: Client, id: Any, directory: Path) -> dict[str, bytes]:
    """Every tensor of a run's newest checkpoint, weights and optimizer."""
    newest = next(client.checkpoints(id))
    files = client.download(newest.id, directory / str(id))
    return {
        f"{path.name}:{name}": tensor.numpy().tobytes()
        for path in files
        if path.suffix == ".safetensors"
        for name, tensor in load_file(path).items()
    }


@pytest.mark.timeout(900)
def test_a_run_paused_saved_and_resumed_is_the_uninterrupted_one(
    client: Client, tiny: dict[str, Any], eventually: Eventually, tmp_path: Path
) -> None:
    def spec(max_steps: int) -> dict[str, Any]:
        training = {**tiny["training"], "max_steps": max_steps, "prompts_per_step": 4}
        checkpoints = {"every": 0}
        return {
            **tiny,
            "training": training,
            "checkpoints": checkpoints,
            "evaluation": {**tiny["evaluation"], "every": 3},
        }

    broken = client.create_run(spec(100_000))  # so many that it cannot end before it hears that it is to pause
    eventually(lambda: client.run(broken.id).status is JobStatus.RUNNING and client.run(broken.id).metrics)
    assert client.save(broken.id).checkpoint_pending
    eventually(lambda: list(client.checkpoints(broken.id)))
    assert client.pause(broken.id).status is JobStatus.PAUSING
    eventually(lambda: client.run(broken.id).status is JobStatus.PAUSED)
    assert client.run(broken.id).worker is None
    steps = next(client.checkpoints(broken.id)).step + 4
    client.resume(broken.id, max_steps=steps)
    straight = client.create_run(spec(steps))

    ended = [client.wait_for_run(run.id, timeout=600) for run in (straight, broken)]

    assert [run.status for run in ended] == [JobStatus.SUCCEEDED] * 2
    assert ended[0].heldout == ended[1].heldout
    assert measured(client, straight.id) == measured(client, broken.id)
    assert rewards(client, straight.id) == rewards(client, broken.id)
    assert tensors(client, straight.id, tmp_path) == tensors(client, broken.id, tmp_path)
    assert {attempt.outcome for attempt in client.attempts(broken.id)} == {"paused", "succeeded"}


def test_an_ended_run_goes_on_to_more_steps(client: Client, finished: Any, tiny: Any, tmp_path: Path) -> None:
    shorter = client.wait_for_run(client.create_run(tiny).id, timeout=120)
    client.resume(shorter.id, max_steps=4)
    extended = client.wait_for_run(shorter.id, timeout=120)
    training = {**tiny["training"], "max_steps": 4}
    straight = client.wait_for_run(client.create_run({**tiny, "training": training}).id, timeout=120)

    assert (extended.status, extended.max_steps) == (JobStatus.SUCCEEDED, 4)
    assert tensors(client, extended.id, tmp_path) == tensors(client, straight.id, tmp_path)


@pytest.mark.parametrize(("ask", "becomes"), [("pause", JobStatus.PAUSED), ("cancel", JobStatus.CANCELLED)])
def test_a_run_that_is_still_loading_stops_at_once(
    client: Client, tiny: Any, eventually: Eventually, ask: str, becomes: JobStatus
) -> None:
    id = client.create_run(tiny).id
    eventually(lambda: client.run(id).status is JobStatus.STARTING)
    getattr(client, ask)(id)
    eventually(lambda: client.run(id).status is becomes)
    if becomes is JobStatus.PAUSED:
        client.resume(id)
        assert client.wait_for_run(id, timeout=120).status is JobStatus.SUCCEEDED


def test_an_imported_lora_draws_what_its_origin_draws_and_a_run_starts_from_it(
    client: Client, finished: Any, tiny: Any, tmp_path: Path
) -> None:
    origin = next(client.checkpoints(finished.id))
    weights = next(path for path in client.download(origin.id, tmp_path) if "lora" in path.name)
    imported = client.import_checkpoint(weights, model="shapes-flux", name="from outside")
    assert imported.manifest["lora_alpha"] == origin_alpha(client, origin.id)

    spec = {"checkpoints": [str(origin.id), str(imported.id)], "prompts": ["a small red circle on white"], "seed": 5}
    generation = client.generate(spec, wait=120)
    assert generation.status is JobStatus.SUCCEEDED, generation.error
    one, other = (Image.open(io.BytesIO(client.image(generation.id, number))) for number in (0, 1))
    assert ImageChops.difference(one, other).getbbox() is None

    training = {**tiny["training"], "max_steps": 1, "lora_alpha": imported.manifest["lora_alpha"]}
    run = client.create_run({**tiny, "start_from": str(imported.id), "training": training})
    ended = client.wait_for_run(run.id, timeout=120)
    assert ended.status is JobStatus.SUCCEEDED, ended.error


def origin_alpha(client: Client, id: Any) -> Any:
    return client.checkpoint(id).manifest["lora_alpha"]
