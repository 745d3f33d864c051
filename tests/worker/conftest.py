"""Engine tests run on one thread: their batches are too small to gain from two, and the machine may be busy."""

from collections.abc import Callable, Iterator

import pytest
import torch

from tests.worker.evaluation.judge_server import Asked, JudgeServer, Reply, Serve, judged

torch.set_num_threads(1)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server with a plan; all are closed when the test ends."""
    servers: list[JudgeServer] = []

    def start(plan: Callable[[Asked], Reply] = judged) -> JudgeServer:
        servers.append(JudgeServer(plan))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
