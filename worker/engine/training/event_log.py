"""The event log of an attempt, with one JSON object per line, and the supervisor's control file."""

import math
import os
import threading
from pathlib import Path

from pydantic import BaseModel, ValidationError

from service.contracts.attempt_files import CONTROL_FILE, EVENTS_FILE, Control


class Cancelled(Exception):
    """Raised when the supervisor requests that the run be cancelled."""


class Paused(Exception):
    """Raised when the supervisor requests that the run save its state and stop."""


class EventWriter:
    """Appends to `events.jsonl` in the attempt's directory and flushes each line. Safe to call from any thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = (directory / EVENTS_FILE).open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, event: BaseModel) -> None:
        """Append one of the events defined in `service.contracts.events`."""
        line = event.model_dump_json() + "\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Sync the file to disk and close it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class NullEventWriter(EventWriter):
    """Discards events. Every process of a run except the main one uses this writer."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, event: BaseModel) -> None:
        """Discard the event."""

    def close(self) -> None:
        """Do nothing."""


class ControlFile:
    """Reads the supervisor's latest request from the control file, which the supervisor replaces atomically."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / CONTROL_FILE

    def check(self) -> None:
        """Raise Cancelled or Paused if the supervisor has requested it."""
        match self._read():
            case Control(action="cancel"):
                raise Cancelled
            case Control(action="pause"):
                raise Paused

    def checkpoint_request(self) -> int:
        """Return the number of the latest request for an extra checkpoint, or 0 if there is none."""
        control = self._read()
        return control.request if control is not None else 0

    def _read(self) -> Control | None:
        try:
            return Control.model_validate_json(self._path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None


def finite(value: float) -> float | None:
    """Return the value, or None if it is not finite, because JSON cannot represent such values."""
    return value if math.isfinite(value) else None
