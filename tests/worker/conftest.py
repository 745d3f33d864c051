"""Run engine tests on one thread, because their batches are too small for two and the machine may be busy."""

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.worker.engine.evaluation.judge_server import JudgeRequest, JudgeServer, Reply, Serve, valid_reply

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def compiler() -> None:
    """The requirements of torch.compile on a CPU: a C++ compiler and Python's headers."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("needs a C compiler: install gcc with g++, or name another in CXX")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        pytest.skip("needs Python's header files for what it compiles: install python3-dev")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server with a plan; all are closed when the test ends."""
    servers: list[JudgeServer] = []

    def start(plan: Callable[[JudgeRequest], Reply] = valid_reply) -> JudgeServer:
        servers.append(JudgeServer(plan))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
