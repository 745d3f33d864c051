"""Code shared by all commands: output, request specs, errors, and access to the service and its database."""

import functools
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
import yaml
from pydantic import BaseModel, ValidationError
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session
from typer.core import TyperGroup

from service.client import DEFAULT_URL, ApiError, Client
from service.contracts.yaml_file import load_yaml
from service.core.settings import Settings, what_is_wrong
from service.db.session import connect as connect_database
from service.jobs.views import JobView
from service.local import EmbeddedError
from service.local.running_servers import find_running

stdout = Console()
stderr = Console(stderr=True)

FAILED, REFUSED = 1, 2
"""Exit statuses for a failed job and for a request that was rejected before anything ran."""
_LOG_TAIL = 1500
_UNLIMITED = 1 << 20
_KEY_MISSING = "API key required: set G2RPO_API_KEY. An administrator creates keys with `g2rpo keys create`"
_format: ContextVar[Literal["json", "ids"] | None] = ContextVar("format", default=None)
"""The output format of the running command, or None for text."""
MediaType = TypeVar("MediaType", bound=str)
Item = TypeVar("Item", bound=BaseModel)


class ErrorReportingGroup(TyperGroup):
    """A command group that reports a rejected request or a local problem as one line and exits with status 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ApiError, EmbeddedError, OSError) as error:
            if ctx.params.get("debug"):
                traceback.print_exception(error)
            text = _KEY_MISSING if getattr(error, "code", "") == "key_missing" else str(error)
            if getattr(error, "code", "") in ("key_unknown", "key_malformed", "key_revoked", "key_expired"):
                text += "  (the key in G2RPO_API_KEY)"
            request_id = getattr(error, "request_id", "")
            stderr.print("[bold red]error:[/] ", end="")
            print_line(f"{text}  (request {request_id})" if request_id else text, to=stderr)
            raise typer.Exit(REFUSED) from None


def with_formats(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options `--json` and `--quiet` to a command that prints with `print_items` or `emit`."""

    @functools.wraps(command)
    def run(*args: Any, as_json: bool, quiet: bool, **arguments: Any) -> None:
        if as_json and quiet:
            raise typer.BadParameter("--json and --quiet cannot be combined")
        token = _format.set("json" if as_json else "ids" if quiet else None)
        try:
            command(*args, **arguments)
        finally:
            _format.reset(token)

    added = {
        "as_json": Annotated[bool, typer.Option("--json", help="Print JSON.")],
        "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print only ids or names.")],
    }
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(name, keyword, default=False, annotation=type) for name, type in added.items()]
    signature = inspect.signature(command)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *options])  # type: ignore[attr-defined]
    run.__annotations__ = command.__annotations__ | added
    return run


def emit(value: BaseModel | Sequence[BaseModel], names: Iterable[object] | None = None) -> bool:
    """Print a model or a list of models if `--json` or `--quiet` was given, and return whether it was printed.

    `--quiet` prints the `names`, by default the ids of the models.
    """
    several = [value] if isinstance(value, BaseModel) else value
    if _format.get() == "json":
        found = [one.model_dump(mode="json") for one in several]
        typer.echo(json.dumps(found[0] if isinstance(value, BaseModel) else found, indent=2, ensure_ascii=False))
    elif _format.get() == "ids":
        for name in (getattr(one, "id", None) for one in several) if names is None else names:
            if name is None:
                raise typer.BadParameter("The result has no id to print with --quiet; use --json")
            typer.echo(name)
    return _format.get() is not None


def connect() -> Client:
    """Return a client for the service at G2RPO_URL that uses the API key in G2RPO_API_KEY."""
    return Client(os.environ.get("G2RPO_URL", DEFAULT_URL), os.environ.get("G2RPO_API_KEY"))


@contextmanager
def open_session(data: Path) -> Iterator[Session]:
    """Open a session on the database at G2RPO_DATABASE_URL or, if unset, of the `g2rpo up` that runs on `data`.

    Raises EmbeddedError if the database does not exist or is unreachable, or if its schema is not current.
    """
    database = connect_database(_database_settings(data))
    try:
        with database.sessions() as session:
            yield session
    except OperationalError as error:
        reason = (str(error.orig).strip() or type(error).__name__).splitlines()[0]
        raise EmbeddedError(f"The database cannot be reached: {reason}") from None
    except ProgrammingError:
        raise EmbeddedError("The database schema is missing or outdated; run `python -m service.db.migrate`") from None
    finally:
        database.close()


def _database_settings(data: Path) -> Settings:
    try:
        if "G2RPO_DATABASE_URL" in os.environ:
            return Settings()
        running = find_running(data)
        if running is not None and running.database_url is not None:
            return Settings(database_url=running.database_url)
    except ValidationError as error:
        raise EmbeddedError(f"Invalid settings: {what_is_wrong(error)}") from None
    raise EmbeddedError(
        f"No service with an embedded database runs on {data}; start it with `g2rpo up --data {data}`, choose another "
        "directory with --data, or set G2RPO_DATABASE_URL"
    )


def read_spec(file: Path | None, settings: Sequence[str] | None) -> dict[str, Any]:
    """Read a request body from a YAML or JSON file (`-` is standard input) and apply `path.to.field=value` settings."""
    spec: Any = {}
    if file is not None:
        try:
            spec = load_yaml(sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise typer.BadParameter(f"Cannot read {file} as YAML or JSON: {error}") from error
        if not isinstance(spec, dict):
            raise typer.BadParameter(f"Invalid spec in {file}: must be a mapping of fields to values")
    for setting in settings or ():
        path, value = split_pair(setting, "=", "path.to.field=value")
        *parents, name = path.split(".")
        target = spec
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise typer.BadParameter(f"Cannot set {setting!r}: {parent!r} is not a mapping")
        try:
            target[name] = load_yaml(value)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"Cannot read the value of {setting!r} as YAML: {error}") from error
    return dict(spec)


def split_pair(text: str, separator: str, form: str) -> tuple[str, str]:
    """Split an option written as `form` into its name and value. Raises BadParameter if there is no separator."""
    name, found, value = text.partition(separator)
    if not found:
        raise typer.BadParameter(f"Invalid value {text!r}; write {form}")
    return name, value


def drop_unset(**values: Any) -> dict[str, Any]:
    """Return the options that were given. Options that were not given are None."""
    return {name: value for name, value in values.items() if value is not None}


def media_type(out: Path, by_suffix: Mapping[str, MediaType]) -> MediaType:
    """Return the media type for the suffix of `out`. Raises BadParameter if the suffix is not supported."""
    if out.suffix not in by_suffix:
        raise typer.BadParameter(f"Unsupported file name {out}: must end in {', '.join(by_suffix)}")
    return by_suffix[out.suffix]


def confirm(yes: bool, question: str) -> None:
    """Ask for confirmation unless `--yes` was given, and abort if the user declines."""
    if not yes:
        typer.confirm(question, abort=True)


def print_line(text: str, style: str | None = None, to: Console = stdout) -> None:
    """Print text verbatim, without interpreting markup and without wrapping lines."""
    to.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print warnings to standard error."""
    for warning in warnings:
        print_line(f"warning: {warning}", "yellow", stderr)


def print_yaml(value: Any) -> None:
    """Print a nested value in a form that `--file` accepts."""
    typer.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)


def print_view(view: BaseModel, key: str = "id") -> None:
    """Print a model as YAML unless another format was selected. `key` is the field that `--quiet` prints."""
    if not emit(view, [getattr(view, key)]):
        print_yaml(view.model_dump(mode="json"))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table. None is shown as an empty cell, floats have five significant digits.

    Nothing is truncated: cells wrap between words in a terminal, and not at all in a pipe or file.
    """
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    for column in table.columns:
        words = [str(cell).split() for cell in column.cells]
        column.no_wrap = not stdout.is_terminal or all(len(cell) <= 1 for cell in words)
        column.min_width = max((cell_len(word) for cell in words for word in cell), default=0)
    size = Measurement.get(stdout, stdout.options.update(max_width=_UNLIMITED), table)
    table.width = min(size.maximum, max(stdout.width, size.minimum)) if stdout.is_terminal else size.maximum
    stdout.print(table, crop=False)


def print_items(items: Iterable[Item], *attributes: str, **columns: Callable[[Item], object]) -> None:
    """Print a table with a column for each of the items' `attributes` and for each value computed by `columns`.

    `--quiet` prints the first column.
    """
    items = list(items)
    getters: dict[str, Callable[[Item], object]] = {**{name: attrgetter(name) for name in attributes}, **columns}
    if emit(items, map(next(iter(getters.values())), items)):
        return
    titles = [name.replace("_", " ") for name in getters]
    print_table(titles, ([get(item) for get in getters.values()] for item in items))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def print_heldout(changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Print how the held-out rewards changed. `changes` maps reward names to the fields of `HeldoutSummary`."""
    rows = []
    for reward, change in changes.items():
        low, high = change["interval95"]
        means = (f"{change['before']:.4f}", f"{change['after']:.4f}", f"{change['difference']:+.4f}")
        rows.append((reward, *means, f"{low:+.4f} to {high:+.4f}", change["pairs"]))
    print_table(("held-out", "before", "after", "difference", "95% interval", "pairs"), rows)


def write_file(path: Path, content: bytes) -> None:
    """Write a file and print its path."""
    path.write_bytes(content)
    print_line(f"wrote {path}")


def print_error(job: JobView) -> None:
    """Print why a job failed, and the end of its log."""
    if job.error is not None:
        print_line(f"{job.error.code}: {job.error.detail}", "red")
        for text, style in ((job.error.hint, None), (job.error.log_tail[-_LOG_TAIL:], "dim")):
            if text:
                print_line(text, style)
