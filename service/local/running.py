"""Finding the servers of a `g2rpo up` that runs."""

from dataclasses import dataclass
from pathlib import Path

from service.local import lock, postgres, valkey


@dataclass(frozen=True)
class Running:
    """Addresses of the service's own servers, where there are any."""

    database_url: str | None
    broker_url: str | None


def find(data: Path) -> Running | None:
    """The servers of the `up` on the files in `data`; None when none runs."""
    if not lock.is_held(data):
        return None
    return Running(postgres.running_url(data / "postgres"), valkey.running_url(data / "valkey"))
