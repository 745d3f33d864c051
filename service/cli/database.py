"""The database itself, for commands that need no service: the environment's, or that of a `g2rpo up` here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.local import EmbeddedError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from service.core.settings import Settings

DataOption = Annotated[
    Path, typer.Option("--data", envvar="G2RPO_DATA_DIR", help="Data directory of the `g2rpo up` that runs here.")
]
HERE = Path(".g2rpo")


@contextmanager
def opened(data: Path) -> Iterator["Session"]:
    """A session on it. Raises EmbeddedError, in words, where there is none or it cannot be used."""
    from sqlalchemy.exc import OperationalError, ProgrammingError

    from service.db.session import connect

    database = connect(_settings(data))
    try:
        with database.sessions() as session:
            yield session
    except OperationalError as error:
        reason = (str(error.orig).strip() or type(error).__name__).splitlines()[0]
        raise EmbeddedError(f"the database cannot be reached: {reason}") from None
    except ProgrammingError:
        raise EmbeddedError("the database has no schema, or an old one: run `python -m service.db.migrate`") from None
    finally:
        database.close()


def _settings(data: Path) -> "Settings":
    from pydantic import ValidationError

    from service.core.settings import Settings, what_is_wrong
    from service.local import running

    url: str | None = None
    if "G2RPO_DATABASE_URL" not in os.environ:
        found = running.find(data)
        if found is None or found.database_url is None:
            raise EmbeddedError(
                f"no service with a database of its own runs on {data}: start it by `g2rpo up --data {data}`, name its "
                "directory by --data, or set G2RPO_DATABASE_URL"
            )
        url = found.database_url
    try:
        return Settings(database_url=url) if url else Settings()
    except ValidationError as error:
        raise EmbeddedError(f"a setting cannot be used: {what_is_wrong(error)}") from None
