"""`python -m worker.monitoring.healthcheck`: check that a worker on this host has a recent heartbeat.

The check is intended for containers that run one worker. It also fails if the database is unavailable.
"""

import socket
import sys
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from service.db.models import Worker
from service.db.session import Database, connect


def is_alive(database: Database, host: str) -> bool:
    """Whether a worker on `host` has written its heartbeat within `worker_timeout_seconds`."""
    recent = func.now() - timedelta(seconds=database.settings.worker_timeout_seconds)
    alive = select(Worker).where(Worker.name.startswith(f"{host}:", autoescape=True), Worker.heartbeat_at > recent)
    with database.transaction() as session:
        return session.scalar(select(alive.exists())) is True


def main() -> None:
    """Exit with status 0 if a worker is alive, otherwise print the reason and exit with status 1."""
    database, host = connect(), socket.gethostname()
    try:
        if not is_alive(database, host):
            sys.exit(f"no worker of {host} had a heartbeat within {database.settings.worker_timeout_seconds:g} s")
    except SQLAlchemyError as error:
        sys.exit(f"the database query failed: {str(error).splitlines()[0]}")
    finally:
        database.close()


if __name__ == "__main__":
    main()
