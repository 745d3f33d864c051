"""Writes what happens, one JSON line each, and reads what the supervisor asks."""

import math
import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

from service.contracts.jobs import CONTROL_FILE, EVENTS_FILE, Control


class Cancelled(Exception):
    """The supervisor asked the run to stop."""


class EventWriter:
    """Appends to `events.jsonl` in the attempt's directory; a line is with the system before the call returns."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = (directory / EVENTS_FILE).open("a", encoding="utf-8")

    def write(self, event: BaseModel) -> None:
        """Append one event of `service.contracts.events`."""
        self._file.write(event.model_dump_json() + "\n")
        self._file.flush()

    def close(self) -> None:
        """Make everything written durable."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class ControlFile:
    """The file by which the supervisor reaches the run."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / CONTROL_FILE

    def check(self) -> None:
        """Raise Cancelled when the run was asked to stop."""
        try:
            Control.model_validate_json(self._path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return
        raise Cancelled


def finite(value: float) -> float | None:
    """The value as JSON can carry it: null where it is not finite."""
    return value if math.isfinite(value) else None
