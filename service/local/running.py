"""The embedded servers of a running `g2rpo up`."""

from dataclasses import dataclass
from pathlib import Path

from service.local import postgres, valkey
from service.local.server import is_locked


@dataclass(frozen=True)
class Running:
    """URLs of the embedded servers; None for a server that a variable replaces."""

    database_url: str | None
    broker_url: str | None


def find(data: Path) -> Running | None:
    """The servers of the `up` on `data`; None if none runs."""
    if not is_locked(data):
        return None
    return Running(postgres.running_url(data / "postgres"), valkey.running_url(data / "valkey"))
