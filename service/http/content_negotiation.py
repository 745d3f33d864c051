"""Content negotiation with the headers `Accept` and `Prefer`."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Header, Response

from service.http.errors import NotAcceptable

PreferHeader = Annotated[
    str | None,
    Header(alias="Prefer", description="`wait=N`: respond once the job has ended, or after N seconds at the latest."),
]


def choose(accept: str | None, offered: Sequence[str]) -> str:
    """Return the offered media type with the highest quality in an `Accept` header.

    More specific media ranges take precedence (RFC 9110). Among media types of equal quality, the one offered first is
    returned. Raises NotAcceptable if the header accepts none of them.
    """
    ranges = [_range(part) for part in (accept or "*/*").split(",") if part.strip()]
    best, quality = "", 0.0
    for media_type in offered:
        matches = [
            (specific, q)
            for pattern, q in ranges
            for specific, candidate in enumerate(("*/*", media_type.split("/")[0] + "/*", media_type))
            if pattern == candidate
        ]
        offered_quality = max(matches)[1] if matches else 0.0
        if offered_quality > quality:
            best, quality = media_type, offered_quality
    if not best:
        raise NotAcceptable(f"Unsupported Accept header {accept!r}; available media types: {', '.join(offered)}")
    return best


def respond(accept: str | None, renderers: Mapping[str, Callable[[], str | bytes]]) -> Response:
    """Render the response in the media type that `Accept` prefers, using the renderer for that type.

    Raises NotAcceptable if there is no renderer for an accepted media type.
    """
    media_type = choose(accept, tuple(renderers))
    return Response(renderers[media_type](), media_type=media_type, headers={"Vary": "Accept"})


def openapi_content(*media_types: str) -> dict[str, Any]:
    """Return the OpenAPI `content` of a response that is available in the given media types."""
    text, binary = {"type": "string"}, {"type": "string", "format": "binary"}
    return {name: {"schema": text if name.startswith("text/") else binary} for name in media_types}


def csv_text(rows: Iterable[Iterable[object]], line_end: str = "\r\n") -> str:
    """Format rows of cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator=line_end).writerows(rows)
    return text.getvalue()


def preferred_wait(prefer: str | None) -> float:
    """Return the seconds in a `Prefer: wait=N` header (RFC 7240), or 0 if there is none."""
    match = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?\s*(?:$|[,;])", prefer or "", re.IGNORECASE)
    return float(match.group(1)) if match else 0.0


def is_current(etag: str, if_none_match: str | None) -> bool:
    """Whether the client has the version `etag`: `If-None-Match` lists it, or is `*` (RFC 9110)."""
    return if_none_match is not None and (etag in if_none_match or if_none_match.strip() == "*")


def _range(part: str) -> tuple[str, float]:
    pattern, *parameters = (piece.strip() for piece in part.lower().split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return pattern, float(parameter[2:])
            except ValueError:
                return pattern, 0.0
    return pattern, 1.0
