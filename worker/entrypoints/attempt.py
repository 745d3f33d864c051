"""Shared by the programs that make one attempt at a job: its directory and events, provenance, and failures."""

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

from service.contracts.events import NO_ROOM, Failed, Progress
from service.contracts.jobs import EVENTS_FILE
from worker.engine.keepalive import repeated
from worker.engine.training.distributed import Distributed
from worker.engine.training.event_log import EventWriter, NullEventWriter
from worker.entrypoints.launcher import FAILURE

logger = logging.getLogger(__name__)


def configure_logging(prefix: str = "") -> None:
    """Log to stderr, where the supervisor reads it."""
    form = f"%(asctime)s {prefix}%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per request is too much


def run_attempt(
    out: Path,
    distributed: Distributed,
    body: Callable[[EventWriter], int],
    classify: Callable[[Exception], Failed],
) -> int:
    """Call `body` with the writer of the events in `out` and return its exit code.

    1 if it raises, after the event that `classify` returns; 2 if `out` already contains an attempt.
    """
    if distributed.broadcast((out / EVENTS_FILE).exists()):
        sys.stderr.write(f"{out} already contains an attempt; choose another directory with --out\n")
        return 2
    out.mkdir(parents=True, exist_ok=True)
    events = EventWriter(out) if distributed.is_main else NullEventWriter(out)
    try:
        return body(events)
    except Exception as error:  # every cause becomes an event that the supervisor can show
        logger.exception("the attempt failed")
        failure = classify(error)
        if file := os.environ.get(FAILURE):  # the launcher decides which process failed first
            Path(file).write_text(failure.model_dump_json(), encoding="utf-8")
        else:
            events.write(failure)
        return 1
    finally:
        events.close()


@contextmanager
def loading(events: EventWriter, step: int, max_steps: int, seconds: float) -> Iterator[None]:
    """Report the phase `loading` now and every `seconds` inside the block."""

    def report() -> None:
        events.write(Progress(step=step, max_steps=max_steps, phase="loading"))

    report()
    with repeated(report, seconds):
        yield


def provenance(device: torch.device, packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """The environment of an attempt: enough to tell whether two attempts computed the same."""
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
    """The commit of the code: recorded by the image's build, otherwise that of the checkout."""
    if given := os.environ.get("G2RPO_COMMIT"):
        return given
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or not a checkout


def classify_common(error: Exception, disk_full: str) -> Failed:
    """The failure of any program, with a hint how to fix it. disk_full: the hint if the disk is full."""
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
    """Whether a write failed because the disk is full. safetensors has error numbers in its messages only."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    return any(f"(os error {number})" in str(error) for number in NO_ROOM)
