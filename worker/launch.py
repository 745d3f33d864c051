"""How a run's child process is started: its arguments and its environment."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TRAIN = (sys.executable, "-m", "worker.entrypoints.train")
"""The program that trains. Tests of supervision put a script of their own in its place."""

_NOT_FOR_CHILDREN = (
    *("G2RPO_DATABASE_URL", "G2RPO_BROKER_URL", "G2RPO_STORAGE_URL", "G2RPO_ADMIN_KEY", "G2RPO_API_KEY"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""The engine knows no database, broker or store; what it does not have it cannot print."""


@dataclass(frozen=True)
class Launch:
    """What to execute, and with which environment."""

    argv: tuple[str, ...]
    environment: dict[str, str]


def train(
    spec_file: Path,
    directory: Path,
    start_from: Path | None = None,
    resume: Path | None = None,
    program: Sequence[str] = TRAIN,
) -> Launch:
    """Start the training of `spec_file` with its output in `directory`.

    `start_from` is a checkpoint whose weights the run begins with, `resume` one of its own that it goes on from
    instead.
    """
    argv = [*program, str(spec_file), "--out", str(directory)]
    if resume is not None:
        argv += ["--resume", str(resume)]
    elif start_from is not None:
        argv += ["--start-from", str(start_from)]
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}
    # What the child printed before it died must be in the log.
    environment["PYTHONUNBUFFERED"] = "1"
    return Launch(tuple(argv), environment)
