"""Runs as standalone engine processes with logs: finished runs are not repeated, interrupted runs resume."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.convergence.plan import Run
from service.contracts.attempt_files import EVENTS_FILE, MANIFEST_FILE, PARENT_FD

REQUEST_FILE = "request.json"

Outcome = str
"""`succeeded`, or `not_finite` if training diverged at this rate; both are results."""


@dataclass(frozen=True)
class Point:
    """A held-out evaluation."""

    step: int
    nfe: float
    """Cumulative NFE of rollouts."""
    seconds: float
    """Cumulative wall time of training steps."""
    rewards: dict[str, float]


def planned(out: Path, phase: str) -> list[Run]:
    """Load the runs that `tune` or `run` planned."""
    runs = []
    for name, spec in json.loads((out / f"{phase}.json").read_text(encoding="utf-8")).items():
        training = spec["training"]
        runs.append(Run(name.split("-", 1)[0], training["learning_rate"], training["seed"], spec))
    return runs


def execute_all(runs: list[Run], root: Path, jobs: int) -> bool:
    """Execute all runs, `jobs` at a time; return whether each has a result."""
    with ThreadPoolExecutor(jobs) as pool:
        return all(list(pool.map(lambda run: execute(run, root / run.name), runs)))


def execute(run: Run, directory: Path) -> bool:
    """Start or resume a run without a result; return whether it has a result."""
    keep_request(run, directory)
    if outcome(directory) is None:
        checkpoint = newest_checkpoint(directory)
        attempt = directory / f"attempt-{len(attempts(directory)) + 1:03d}"
        attempt.mkdir()
        say(f"{run.name}: {attempt.name}" + (f" from {checkpoint.name}" if checkpoint else ""))
        command = [sys.executable, "-m", "worker.entrypoints.train", directory / REQUEST_FILE, "--out", attempt]
        command += ["--resume", checkpoint] if checkpoint else []
        # The pipe closes when this process exits for any reason; the run then stops.
        readable, writable = os.pipe()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", PARENT_FD: str(readable)}
        try:
            with (directory / "log.txt").open("a") as log:
                subprocess.run(command, stdout=log, stderr=log, check=False, env=environment, pass_fds=[readable])
        finally:
            os.close(readable)
            os.close(writable)
    ended = outcome(directory)
    say(f"{run.name}: {ended or 'no result, see log.txt'}")
    return ended is not None


def keep_request(run: Run, directory: Path) -> None:
    """Write the spec of the run. Raises ValueError if the directory contains a run with another spec."""
    directory.mkdir(parents=True, exist_ok=True)
    request = directory / REQUEST_FILE
    if request.exists() and json.loads(request.read_text(encoding="utf-8")) != run.spec:
        raise ValueError(f"{directory} contains a run with another spec; move it or set another --out")
    request.write_text(json.dumps(run.spec, indent=1), encoding="utf-8")


def attempts(directory: Path) -> list[Path]:
    """Directories of the attempts of a run, oldest first."""
    return sorted(directory.glob("attempt-*"))


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint of all attempts."""
    found = [path.parent for path in directory.glob(f"attempt-*/checkpoints/step-*/{MANIFEST_FILE}")]
    return max(found, key=lambda path: (path.name, path), default=None)


def events(directory: Path) -> list[dict[str, Any]]:
    """Events of all attempts in order, without incomplete last lines."""
    lines = []
    for attempt in attempts(directory):
        path = attempt / EVENTS_FILE
        lines += path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def outcome(directory: Path) -> Outcome | None:
    """Outcome of the run; None if it has not finished or failed for another reason."""
    last = (events(directory) or [{"type": ""}])[-1]
    if last["type"] == "finished" and last["outcome"] == "succeeded":
        return "succeeded"
    return "not_finite" if last["type"] == "failed" and last["code"] == "not_finite" else None


def curve(directory: Path) -> list[Point]:
    """Held-out evaluations by step; a step that was repeated after an interruption counts once."""
    points = {}
    for event in events(directory):
        if event["type"] != "metrics":
            continue
        values = event["values"]
        rewards = {
            name.removeprefix("heldout/"): value for name, value in values.items() if name.startswith("heldout/")
        }
        if rewards:
            points[event["step"]] = Point(event["step"], values["elapsed/nfe"], values["elapsed/seconds"], rewards)
    return [points[step] for step in sorted(points)]


def training_metrics(directory: Path) -> dict[int, dict[str, float]]:
    """Metrics of the training steps, by step."""
    return {
        event["step"]: event["values"]
        for event in events(directory)
        if event["type"] == "metrics" and "loss" in event["values"]
    }


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)
