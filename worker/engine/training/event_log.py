"""Writes what happens, one JSON line each, and reads what the supervisor asks."""

import math
import os
import threading
from pathlib import Path

from pydantic import BaseModel, ValidationError

from service.contracts.jobs import CONTROL_FILE, EVENTS_FILE, Control


class Cancelled(Exception):
    """The supervisor asked the run to end."""


class Paused(Exception):
    """The supervisor asked the run to save what is done, and to end."""


class EventWriter:
    """Appends to `events.jsonl` in the attempt's directory; a line is with the system before the call returns.

    Any thread may write: lines stay whole.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = (directory / EVENTS_FILE).open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, event: BaseModel) -> None:
        """Append one event of `service.contracts.events`."""
        line = event.model_dump_json() + "\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Make everything written durable."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class Unheard(EventWriter):
    """What every rank but the leading one has: that one speaks for all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, event: BaseModel) -> None:
        """Leave it unsaid."""

    def close(self) -> None:
        """Nothing is open."""


class ControlFile:
    """The file by which the supervisor reaches the run. It is replaced whole, and holds the newest wish alone."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / CONTROL_FILE

    def check(self) -> None:
        """Raise Cancelled or Paused when the run was asked to stop."""
        match self._read():
            case Control(action="cancel"):
                raise Cancelled
            case Control(action="pause"):
                raise Paused

    def checkpoint_request(self) -> int:
        """The number of the newest request for a checkpoint out of turn; 0 where there is none."""
        control = self._read()
        return control.request if control is not None else 0

    def _read(self) -> Control | None:
        try:
            return Control.model_validate_json(self._path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None


def finite(value: float) -> float | None:
    """The value as JSON can carry it: null where it is not finite."""
    return value if math.isfinite(value) else None
