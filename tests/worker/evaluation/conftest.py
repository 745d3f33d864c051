"""Judges' servers, all closed when the test ends."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.contracts.evaluations import EvaluationJob
from tests.worker.evaluation.judge_server import Asked, JudgeServer, Reply, judged
from worker.entrypoints import evaluate

Serve = Callable[..., JudgeServer]
Attempt = Callable[..., tuple[int, Path]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server with a plan."""
    servers: list[JudgeServer] = []

    def start(plan: Callable[[Asked], Reply] = judged) -> JudgeServer:
        servers.append(JudgeServer(plan))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    """Carries out a job; the exit status, and the attempt's directory."""

    def carry_out(job: EvaluationJob, name: str = "attempt", *options: str) -> tuple[int, Path]:
        out = tmp_path / name
        file = tmp_path / f"{name}.json"
        file.write_text(job.model_dump_json(), encoding="utf-8")
        return evaluate.main([str(file), "--out", str(out), "--device", "cpu", *options]), out

    return carry_out
