"""Attempts at evaluations."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.contracts.evaluations import EvaluationJob
from worker.entrypoints import evaluate

Attempt = Callable[..., tuple[int, Path]]


def attempts_in(directory: Path) -> Attempt:
    """Runs jobs in subdirectories of this directory, and returns the exit status and the attempt's directory."""

    def run_attempt(job: EvaluationJob, name: str = "attempt", *options: str) -> tuple[int, Path]:
        out = directory / name
        file = directory / f"{name}.json"
        file.write_text(job.model_dump_json(), encoding="utf-8")
        return evaluate.main([str(file), "--out", str(out), "--device", "cpu", *options]), out

    return run_attempt


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    """Runs jobs in the test's directory."""
    return attempts_in(tmp_path)
