"""Find the embedded servers of a running `g2rpo up`."""

from dataclasses import dataclass
from pathlib import Path

from service.local import postgres, valkey
from service.local.server import is_locked


@dataclass(frozen=True)
class RunningServers:
    """URLs of the embedded servers. A URL is None if `up` does not run that server itself."""

    database_url: str | None
    broker_url: str | None


def find_running(data: Path) -> RunningServers | None:
    """Return the servers of the `up` running on `data`, or None if no `up` is running."""
    if not is_locked(data):
        return None
    return RunningServers(postgres.running_url(data / "postgres"), valkey.running_url(data / "valkey"))
