"""`g2rpo keys ...`: manage API keys directly in the database, as the first key cannot be created over HTTP."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from pydantic import ValidationError
from sqlalchemy.orm import Session

from service.api.keys import service
from service.api.keys.schemas import KeySpec, KeyView
from service.auth import api_keys
from service.auth.principal import Scope
from service.cli import console, ids, options
from service.contracts.validation_errors import describe
from service.core.api_key_format import new_secret
from service.http.errors import NotFound
from service.http.pagination import PageQuery, every_item
from service.local import EmbeddedError

app = typer.Typer(
    no_args_is_help=True,
    help="Manage API keys in the database at G2RPO_DATABASE_URL, otherwise in the database of the `g2rpo up` that runs "
    "on --data.",
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Owner or purpose.")],
    scope: Annotated[list[Scope], typer.Option(help="admin includes write, and write includes read; repeatable.")],
    expires_days: Annotated[float | None, typer.Option(min=0.001, help="Days until the key expires.")] = None,
    max_open_jobs: Annotated[int | None, typer.Option(min=1, help="Maximum number of unfinished jobs.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Maximum requests per minute.")] = None,
    data: options.Data = options.DATA_DIR,
) -> None:
    """Create a key and print it. It cannot be shown again. Once a key exists, every request requires one."""
    try:
        spec = KeySpec(
            name=name,
            scopes=tuple(scope),
            expires_at=datetime.now(UTC) + timedelta(days=expires_days) if expires_days else None,
            max_open_jobs=max_open_jobs,
            requests_per_minute=requests_per_minute,
        )
    except ValidationError as error:
        found = describe(error.errors(), KeySpec)
        raise EmbeddedError("; ".join(f"{one.loc[0]}: {one.msg}" for one in found)) from None
    with console.open_session(data) as session:
        first = not api_keys.keys_exist(session)
        made = service.add_key(session, spec)
        session.commit()
    console.print_line(f"created {made.row.id}  {made.row.prefix}  ({', '.join(made.row.scopes)})", to=console.stderr)
    if first:
        console.print_line("Every request to this service needs a key from now on", to=console.stderr)
    typer.echo(made.secret)


@app.command()
def new() -> None:
    """Print a new key for G2RPO_ADMIN_KEY. To use the key, set G2RPO_ADMIN_KEY when you start the service."""
    typer.echo(new_secret())


@app.command("list")
@console.with_formats
def list_keys(data: options.Data = options.DATA_DIR) -> None:
    """List all keys without their secrets, newest first, including revoked keys."""
    with console.open_session(data) as session:
        keys = _all_keys(session)
    times = ("created_at", "last_used_at", "expires_at")
    console.print_items(keys, "id", "prefix", "name", "state", *times, scopes=lambda key: ", ".join(key.scopes))


@app.command()
def revoke(
    key_id: Annotated[str, ids.argument("key")],
    data: options.Data = options.DATA_DIR,
) -> None:
    """Revoke a key immediately, even the last admin key. Its jobs continue."""
    with console.open_session(data) as session:
        try:
            id = uuid.UUID(ids.select(key_id, "key", lambda: _all_keys(session)))
            key = service.revoke(session, id, protect_last_admin=False)
        except NotFound as error:
            raise EmbeddedError(error.detail) from None
    console.print_line(f"key {key.prefix} ({key.name}) is {key.state}")


def _all_keys(session: Session) -> list[KeyView]:
    return list(every_item(lambda cursor: service.list_keys(session, PageQuery(limit=200, cursor=cursor))))
