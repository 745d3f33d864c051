"""`python -m worker.monitoring.healthcheck`: whether a worker of this host has lately said that it is there.

Made for a container that runs one worker: it asks the database, so it also fails while the worker cannot reach that.
"""

import socket
import sys
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from service.db.models import Worker
from service.db.session import Database, connect


def is_heard(database: Database, host: str) -> bool:
    """Whether a worker on `host` has written its heartbeat within `worker_timeout_seconds`."""
    lately = func.now() - timedelta(seconds=database.settings.worker_timeout_seconds)
    heard = select(Worker).where(Worker.name.startswith(f"{host}:", autoescape=True), Worker.heartbeat_at > lately)
    with database.transaction() as session:
        return session.scalar(select(heard.exists())) is True


def main() -> None:
    """End with status 0 if a worker is heard, else 1 and the reason."""
    database, host = connect(), socket.gethostname()
    try:
        if not is_heard(database, host):
            sys.exit(f"no worker of {host} was heard within {database.settings.worker_timeout_seconds:g} s")
    except SQLAlchemyError as error:
        sys.exit(f"the database cannot be asked: {str(error).splitlines()[0]}")
    finally:
        database.close()


if __name__ == "__main__":
    main()
