"""What all commands share: where they print, whom they ask, and how a refusal looks."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from typer.core import TyperGroup

from service.local import EmbeddedError

if TYPE_CHECKING:
    from service.client import Client

console = Console()
errors = Console(stderr=True)

FileOption = Annotated[Path | None, typer.Option("--file", "-f", help="The spec, YAML or JSON; - for stdin.")]
SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="As in training.max_steps=20; repeatable.")
]

FAILED, REFUSED = 1, 2
"""Exit status for a job that failed, and for what was refused before anything ran."""


class Refusals(TyperGroup):
    """Commands whose refusals by the service are a line of text, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        with refusing():
            return super().invoke(ctx)


@contextmanager
def refusing() -> Iterator[None]:
    """End with status 2 and the reason when the service, or this machine, refuses."""
    from service.client import ApiError

    try:
        yield
    except (ApiError, EmbeddedError) as error:
        request = getattr(error, "request_id", "")
        text = f"{error}  (request {request})" if request else str(error)
        errors.print("[bold red]error:[/] ", end="")
        errors.print(text, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(REFUSED) from None


def connect() -> "Client":
    """The service that G2RPO_URL names, asked with the key in G2RPO_API_KEY."""
    from service.client import DEFAULT_URL, Client

    return Client(os.environ.get("G2RPO_URL", DEFAULT_URL), os.environ.get("G2RPO_API_KEY"))


def read_spec(file: Path | None, settings: list[str]) -> dict[str, Any]:
    """A request's body from a YAML or JSON file (`-`: standard input) and `path.to.field=value` settings over it."""
    spec: dict[str, Any] = {}
    if file is not None:
        try:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
            read = yaml.safe_load(text)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise typer.BadParameter(f"{file} cannot be read as YAML or JSON: {error}") from error
        if not isinstance(read, dict):
            raise typer.BadParameter(f"{file} holds no spec: it must be a mapping of fields to values")
        spec = read
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            raise typer.BadParameter(f"{setting!r} is no setting; write path.to.field=value")
        _put(spec, path.split("."), yaml.safe_load(value), setting)
    return spec


def _put(spec: dict[str, Any], path: list[str], value: Any, setting: str) -> None:
    for name in path[:-1]:
        spec = spec.setdefault(name, {})
        if not isinstance(spec, dict):
            raise typer.BadParameter(f"{setting!r} leads into {name!r}, which is no mapping in the file")
    spec[path[-1]] = value
