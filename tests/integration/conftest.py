"""One running service for all tests of the package: PostgreSQL, Valkey, API and workers, with short leases.

A training process takes seconds to load, so tests share runs: `finished`, which no test changes, and `sent`, whose
prompts were uploaded over HTTP. Tests change only their own jobs.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.api.runs.schemas import RunView
from service.cli import app
from service.client import ApiError, Client
from service.contracts.status import TERMINAL, JobStatus
from service.local.stack import Stack
from worker.shapes.bench.caption_sampling import train_prompts

TINY: dict[str, Any] = {
    "preset": "shapes",
    "sampling": {"steps": 3},
    "algorithm": {"granularities": [1, 2], "sde_steps": [0], "group_size": 2},
    "training": {"max_steps": 2, "prompts_per_step": 2, "lora_rank": 4},
    "heldout": {"every": 1, "pairs": 4, "final_pairs": 8, "samples": 2},
    "checkpoints": {"every": 1},
}


@pytest.fixture(scope="session", autouse=True)
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The running service. It is the first fixture (autouse), so that failures in other fixtures have it."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("G2RPO_DATABASE_URL", "G2RPO_BROKER_URL"):
            environment.delenv(name, raising=False)
        environment.setenv("OMP_NUM_THREADS", "1")  # tensors are tiny, so a second thread would only slow down the run
        environment.setenv("G2RPO_LEASE_SECONDS", "4")
        environment.setenv("G2RPO_RENEW_SECONDS", "1")
        environment.setenv("G2RPO_RECONCILE_SECONDS", "1")
        environment.setenv("G2RPO_WORKER_TIMEOUT_SECONDS", "20")  # a killed worker is soon removed from the list
        with Stack(tmp_path_factory.mktemp("stack") / "data", port=0) as running:
            yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    """A client of the service. Runs that a failed test left unfinished are cancelled, so that others get the worker."""
    with Client(stack.url) as connected:
        yield connected
        for run in connected.runs(status=sorted(set(JobStatus) - set(TERMINAL))):
            connected.cancel(run.id)


@pytest.fixture(scope="session")
def eventually(eventually: Callable[[Callable[[], object]], None]) -> Callable[[Callable[[], object]], None]:
    """Wait until a condition holds. Ten polls a second leave enough processor time for the training process."""

    def wait(condition: Callable[[], object]) -> None:
        def look() -> bool:
            if condition():
                return True
            time.sleep(0.1)
            return False

        eventually(look)

    return wait


@pytest.fixture
def g2rpo(stack: Stack) -> Callable[..., Result]:
    """Run a command with G2RPO_URL set."""
    environment = {"G2RPO_URL": stack.url, "COLUMNS": "300", "TERM": "dumb"}
    return lambda *words, **options: CliRunner().invoke(app, [str(word) for word in words], env=environment, **options)


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """The smallest run that uses every part of the engine."""
    return TINY


@pytest.fixture(scope="session")
def finished(stack: Stack) -> RunView:
    """A tiny run that has succeeded."""
    with Client(stack.url) as connected:
        run = connected.wait_for_run(connected.create_run({**TINY, "name": "tiny"}).id, timeout=240, every=0.2)
    assert run.status == "succeeded", run.error
    return run


@dataclass(frozen=True)
class Sent:
    """A run on prompts uploaded over HTTP, with the names and prompts of its two sets."""

    run: RunView
    train: tuple[str, list[str]]
    heldout: tuple[str, list[str]]
    refusals: list[str]
    """Error codes of the requests to delete the run's sets while the run was open."""


@pytest.fixture(scope="session")
def sent(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """A succeeded tiny run of the second bundled model on twelve uploaded prompts."""
    file: Path = tmp_path_factory.mktemp("sent") / "sent.jsonl"
    with Client(stack.url) as connected:
        file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in train_prompts()[:12]))
        made = connected.create_prompt_set(file, "sent", heldout=4).prompt_sets
        train, heldout = ((part.name, [one.prompt for one in connected.prompts(part.name)]) for part in made)
        world = {"model": "shapes-flux-2", "prompts": {"set": train[0]}, "rewards": [{"name": "clip_score_2"}]}
        evaluated = {**TINY["heldout"], "prompts": heldout[0]}
        run = connected.create_run({**TINY, **world, "heldout": evaluated, "name": "sent"})
        refusals = []
        for part in made:
            with pytest.raises(ApiError) as raised:
                connected.delete_prompt_set(part.name)
            refusals.append(raised.value.code)
        run = connected.wait_for_run(run.id, timeout=240, every=0.2)
    assert run.status == "succeeded", run.error
    return Sent(run, train, heldout, refusals)
