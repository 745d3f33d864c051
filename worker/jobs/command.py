"""How a child process is started: its arguments and its environment."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TRAIN = (sys.executable, "-m", "worker.entrypoints.train")
"""The program that trains. Tests of supervision put a script of their own in its place."""
EVALUATE = (sys.executable, "-m", "worker.entrypoints.evaluate")
"""The program that evaluates."""
RANKS = (sys.executable, "-m", "worker.entrypoints.ranks")
"""The program that starts it several times."""

_NOT_FOR_CHILDREN = (
    *("G2RPO_DATABASE_URL", "G2RPO_BROKER_URL", "G2RPO_STORAGE_URL", "G2RPO_ADMIN_KEY", "G2RPO_API_KEY"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""The engine knows no database, broker or store; what it does not have it cannot print."""
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(64 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20)}
"""By itself glibc gives the memory of tensors back to the kernel each time, and has it cleared again for the next: on
two cores that was a tenth of a step's processor time."""


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
    processes: int = 1,
    prompt_sets: Mapping[str, Path] | None = None,
) -> Launch:
    """Start the training of `spec_file` with its output in `directory`.

    `start_from` is a checkpoint whose weights the run begins with, `resume` one of its own that it goes on from
    instead; `prompt_sets` are the files of prompt sets that are not the catalog's. Several processes are started, and
    ended, by one that starts them all; on a CPU they share its cores.
    """
    starter = [*RANKS, str(processes), str(directory)] if processes > 1 else []
    argv = [*starter, *program, str(spec_file), "--out", str(directory)]
    if resume is not None:
        argv += ["--resume", str(resume)]
    elif start_from is not None:
        argv += ["--start-from", str(start_from)]
    for name, file in (prompt_sets or {}).items():
        argv += ["--prompt-set", f"{name}={file}"]
    environment = _environment()
    if processes > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    return Launch(tuple(argv), environment)


def evaluate(job_file: Path, directory: Path, checkpoint: Path | None, program: Sequence[str] = EVALUATE) -> Launch:
    """Start the evaluation of `job_file` with its output in `directory`; no `checkpoint` means the base model."""
    start = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    return Launch((*program, str(job_file), "--out", str(directory), *start), _environment())


def _environment() -> dict[str, str]:
    made = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}
    # What the child printed before it died must be in the log.
    made["PYTHONUNBUFFERED"] = "1"
    return _MALLOC | made
