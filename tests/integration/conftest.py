"""The whole service, once for all tests here: PostgreSQL, Valkey, API and workers, with leases that end soon."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.client import Client
from service.embedded.stack import Stack

TINY: dict[str, Any] = {
    "preset": "shapes",
    "sampling": {"steps": 3},
    "algorithm": {"granularities": [1, 2], "sde_steps": [0], "group_size": 2},
    "training": {"max_steps": 2, "prompts_per_step": 2, "lora_rank": 4},
    "evaluation": {"every": 1, "pairs": 4, "final_pairs": 8, "samples": 2},
    "checkpoints": {"every": 1},
}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The service, running."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("G2RPO_DATABASE_URL", "G2RPO_BROKER_URL"):
            environment.delenv(name, raising=False)
        environment.setenv("OMP_NUM_THREADS", "1")  # tiny tensors: a second thread only gets in the way
        environment.setenv("G2RPO_LEASE_SECONDS", "4")
        environment.setenv("G2RPO_RENEW_SECONDS", "1")
        environment.setenv("G2RPO_RECONCILE_SECONDS", "1")
        with Stack(tmp_path_factory.mktemp("stack") / "data", port=0) as running:
            yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    """A client of it."""
    with Client(stack.url) as connected:
        yield connected


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """The smallest run that uses every part of the engine."""
    return TINY


@pytest.fixture(scope="session")
def finished(stack: Stack) -> Any:
    """A tiny run that has succeeded."""
    with Client(stack.url) as connected:
        run = connected.wait_for_run(connected.create_run({**TINY, "name": "tiny"}).id, timeout=240, every=0.2)
    assert run.status == "succeeded", run.error
    return run
