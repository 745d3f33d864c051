"""Engine tests run on one thread: their batches are too small to gain from two, and the machine may be busy."""

import gc
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import torch

from tests.worker.evaluation.judge_server import Asked, JudgeServer, Reply, Serve, judged

torch.set_num_threads(1)
# By default a logged exception is printed with every local variable, which takes a half second each time.
_plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _plain])


def pytest_collection_finish() -> None:
    """Have collections of garbage pass over what was imported, half a million objects, each time a quarter second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def compiler() -> None:
    """What torch.compile needs for a CPU: a C++ compiler and Python's headers."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("needs a C compiler: install gcc with g++, or name another in CXX")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        pytest.skip("needs Python's header files for what it compiles: install python3-dev")


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
