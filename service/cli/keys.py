"""`g2rpo keys ...`: make, list and revoke API keys in the database itself: the first one must come from somewhere."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Column, Table

from service.auth.principal import Scope
from service.cli.console import console, errors
from service.cli.database import HERE, DataOption, opened
from service.local import EmbeddedError

app = typer.Typer(
    no_args_is_help=True,
    help="API keys, in the database that G2RPO_DATABASE_URL names, else in that of the `g2rpo up` that runs on --data.",
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, or what for.")],
    scope: Annotated[list[Scope], typer.Option(help="admin includes write, write includes read; repeatable.")],
    expires_days: Annotated[float | None, typer.Option(min=0.001, help="Days until it is refused.")] = None,
    max_open_jobs: Annotated[int | None, typer.Option(min=1, help="Jobs that have not ended.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Requests in a minute.")] = None,
    data: DataOption = HERE,
) -> None:
    """Make a key and print it, this once: only a hash is kept. From the first key on every request needs one."""
    from service.api.keys import service
    from service.api.keys.schemas import KeySpec
    from service.auth import api_keys

    with _accepted():
        spec = KeySpec(
            name=name,
            scopes=tuple(scope),
            expires_at=datetime.now(UTC) + timedelta(days=expires_days) if expires_days else None,
            max_open_jobs=max_open_jobs,
            requests_per_minute=requests_per_minute,
        )
    with opened(data) as session:
        first = not api_keys.keys_exist(session)
        made = service.make(session, spec)
        session.commit()
    errors.print(
        f"made {made.row.id}  {made.row.prefix}  ({', '.join(made.row.scopes)})", highlight=False, markup=False
    )
    if first:
        errors.print("from now on every request to this service needs a key", highlight=False)
    typer.echo(made.secret)


@app.command()
def new() -> None:
    """Print a fresh key for G2RPO_ADMIN_KEY. It is stored nowhere: the service that is started with it takes it in."""
    from service.core.security import new_secret

    typer.echo(new_secret())


@app.command("list")
def list_keys(data: DataOption = HERE) -> None:
    """List all keys, newest first, revoked ones too; never their secrets."""
    from service.api.keys import service
    from service.api.keys.schemas import KeyFilters

    key, prefix = Column("key", no_wrap=True, min_width=36), Column("prefix", no_wrap=True, min_width=12)
    table = Table(key, prefix, "name", "scopes", "state", "created", "last used", "expires", box=None)
    with opened(data) as session:
        page = service.listing(session, KeyFilters(limit=200))
        keys = page.items
        while page.next_cursor is not None:
            page = service.listing(session, KeyFilters(limit=200, cursor=page.next_cursor))
            keys += page.items
    for one in keys:
        moments = (one.created_at, one.last_used_at, one.expires_at)
        times = (f"{moment.astimezone():%Y-%m-%d %H:%M}" if moment else "" for moment in moments)
        table.add_row(str(one.id), one.prefix, one.name, ", ".join(one.scopes), one.state, *times)
    console.print(table)


@app.command()
def revoke(
    key_id: Annotated[uuid.UUID, typer.Argument(metavar="KEY", help="The key's id.")], data: DataOption = HERE
) -> None:
    """Take a key back, at once; also the last one with the scope admin. Its jobs go on."""
    from service.api.keys import service
    from service.http.errors import NotFound

    with opened(data) as session:
        try:
            key = service.revoke(session, key_id, spare_last_admin=False)
        except NotFound as error:
            raise EmbeddedError(error.detail) from None
    console.print(f"key {key.prefix} ({key.name}) is {key.state}", highlight=False, markup=False)


@contextmanager
def _accepted() -> Iterator[None]:
    """Refuse what a model does not take, as a line of text that shows no value."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        said = (
            f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors()
        )
        raise EmbeddedError("; ".join(said)) from None
