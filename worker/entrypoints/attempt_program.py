"""Code shared by the programs that run one attempt at a job: directory, events, provenance and failures."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from service.contracts.attempt_files import EVENTS_FILE
from service.contracts.events import NO_ROOM, Failed, Progress
from worker.engine.heartbeat import periodic_heartbeat
from worker.engine.training.distributed import Distributed
from worker.engine.training.event_log import EventWriter, NullEventWriter
from worker.entrypoints.launcher import FAILURE

logger = logging.getLogger(__name__)


def configure_logging(prefix: str = "") -> None:
    """Log to stderr, which the supervisor redirects to the attempt's log file."""
    form = f"%(asctime)s {prefix}%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs one line per request


def run_attempt(
    out: Path, distributed: Distributed, body: Callable[[EventWriter], int], classify: Callable[[Exception], Failed]
) -> int:
    """Call `body` with a writer for the events in `out`, and return its exit code.

    Returns 1 if `body` raises, after writing the event that `classify` returns for the exception. Returns 2 without
    calling `body` if `out` already contains an attempt.
    """
    if distributed.broadcast((out / EVENTS_FILE).exists()):
        sys.stderr.write(f"{out} already contains an attempt; choose another directory with --out\n")
        return 2
    out.mkdir(parents=True, exist_ok=True)
    events = EventWriter(out) if distributed.is_main else NullEventWriter(out)
    try:
        return body(events)
    except Exception as error:  # every error is reported to the supervisor as an event
        logger.exception("the attempt failed")
        failure = classify(error)
        if file := os.environ.get(FAILURE):  # the launcher determines which process failed first
            Path(file).write_text(failure.model_dump_json(), encoding="utf-8")
        else:
            events.write(failure)
        return 1
    finally:
        events.close()


@contextmanager
def loading(events: EventWriter, step: int, max_steps: int, seconds: float) -> Iterator[None]:
    """Report the phase `loading` immediately, and then every `seconds` seconds while the block runs."""

    def report() -> None:
        events.write(Progress(step=step, max_steps=max_steps, phase="loading"))

    report()
    with periodic_heartbeat(report, seconds):
        yield


def provenance(device: torch.device, packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the device, package versions, commit and process settings, to show whether two attempts are comparable."""
    names = ("g2rpo", "torch", "diffusers", "transformers", "peft", *packages)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "process": os.getpid(),
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in names},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Return the commit recorded in G2RPO_COMMIT by the image build, otherwise the checkout's commit, or None."""
    if given := os.environ.get("G2RPO_COMMIT"):
        return given
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None  # git is not installed, or this is not a checkout


def classify_common(error: Exception, disk_full: str) -> Failed:
    """Convert an exception to a failure with a hint, for errors that any program can raise.

    disk_full: the hint to use if the disk is full.
    """
    detail = f"{type(error).__name__}: {error}"
    match error:
        case OSError() | SafetensorError() if _disk_full(error):
            return Failed(code="disk_full", detail=detail, hint=disk_full)
        case ValidationError() | ValueError() | KeyError():
            text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
            return Failed(code="bad_config", detail=text, hint="Correct the spec or the catalog.")
        case _:
            return Failed(code="error", detail=detail, hint="See the end of the log.")


def _disk_full(error: Exception) -> bool:
    """Whether a write failed because the disk is full. For safetensors, only the message contains the error number."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    return any(f"(os error {number})" in str(error) for number in NO_ROOM)
