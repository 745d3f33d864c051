"""Ids in commands: complete, or their beginning or end if no other id has the same."""

import uuid
from collections.abc import Callable, Iterable
from typing import Any

import typer

from service.cli import console
from service.client import Client

_MIN_LENGTH = 4
_MAX_CANDIDATES = 10


def argument(noun: str, parser: Callable[[str], str] | None = None) -> Any:
    """Declare an argument that is an id. Without a `parser`, the command itself calls `select`."""
    return typer.Argument(
        metavar=noun.upper(), parser=parser, help=f"{noun.capitalize()} id, or its unique beginning or end."
    )


def select(text: str, noun: str, candidates: Callable[[], Iterable[Any]]) -> str:
    """Return the only id among the `candidates` that starts or ends with `text`, or `text` if it is a complete id.

    `candidates` is not called for a complete id. Raises BadParameter if no id or more than one matches.
    """
    try:
        return str(uuid.UUID(text))
    except ValueError:
        part = text.lower()
    if len(part) < _MIN_LENGTH:
        raise typer.BadParameter(f"Invalid {noun} id {text!r}: give at least {_MIN_LENGTH} characters of the id")
    ids = [id for one in candidates() if (id := str(one.id)).startswith(part) or id.endswith(part)]
    if not ids:
        raise typer.BadParameter(f"No {noun} has an id that starts or ends with {text!r}")
    if len(ids) > 1:
        more = f" and {len(ids) - _MAX_CANDIDATES} more" if len(ids) > _MAX_CANDIDATES else ""
        raise typer.BadParameter(f"Ambiguous {noun} id {text!r}: {', '.join(ids[:_MAX_CANDIDATES])}{more}")
    return ids[0]


def _parser(noun: str, candidates: Callable[[Client], Iterable[Any]]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        with console.connect() as client:
            return select(text, noun, lambda: candidates(client))

    return parse


run = _parser("run", Client.runs)
evaluation = _parser("evaluation", Client.evaluations)
generation = _parser("generation", Client.generations)
checkpoint = _parser("checkpoint", Client.checkpoints)


def checkpoint_or_base(text: str) -> str:
    """Return the id of a checkpoint, or `base`."""
    return text if text == "base" else checkpoint(text)
