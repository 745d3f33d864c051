"""What a client would like: one of the media types that a route can make, an answer that waits."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Header, Response

from service.http.errors import NotAcceptable

PreferHeader = Annotated[
    str | None, Header(alias="Prefer", description="`wait=N`: answer when it has ended, or after N seconds.")
]


def choose(accept: str | None, offered: Sequence[str]) -> str:
    """The offered type that an `Accept` header likes best, the first offered where it does not care.

    A more specific range decides over a less specific one, as RFC 9110 has it. Raises NotAcceptable.
    """
    ranges = [_range(part) for part in (accept or "*/*").split(",") if part.strip()]
    best, quality = "", 0.0
    for media_type in offered:
        fitting = [
            (specific, q)
            for pattern, q in ranges
            for specific, candidate in enumerate(("*/*", media_type.split("/")[0] + "/*", media_type))
            if pattern == candidate
        ]
        likes = max(fitting)[1] if fitting else 0.0
        if likes > quality:
            best, quality = media_type, likes
    if not best:
        raise NotAcceptable(f"this route makes {', '.join(offered)}; none of them is in Accept: {accept}")
    return best


def respond(accept: str | None, renderers: Mapping[str, Callable[[], str | bytes]]) -> Response:
    """The response in the media type that `Accept` prefers, made by that type's renderer. Raises NotAcceptable."""
    media_type = choose(accept, tuple(renderers))
    return Response(renderers[media_type](), media_type=media_type, headers={"Vary": "Accept"})


def openapi_content(*media_types: str) -> dict[str, Any]:
    """The OpenAPI `content` of a response in these media types."""
    text, binary = {"type": "string"}, {"type": "string", "format": "binary"}
    return {name: {"schema": text if name.startswith("text/") else binary} for name in media_types}


def csv_text(rows: Iterable[Iterable[object]], line_end: str = "\r\n") -> str:
    """Rows of cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator=line_end).writerows(rows)
    return text.getvalue()


def preferred_wait(prefer: str | None) -> float:
    """Seconds in a `Prefer: wait=N` header (RFC 7240); 0 where there is none."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?\s*(?:$|[,;])", prefer or "", re.IGNORECASE)
    return float(match.group(1)) if match else 0.0


def _range(part: str) -> tuple[str, float]:
    pattern, *parameters = (piece.strip() for piece in part.lower().split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return pattern, float(parameter[2:])
            except ValueError:
                return pattern, 0.0
    return pattern, 1.0
