"""Selection of a media type by the Accept header."""

import pytest

from service.http.content_negotiation import choose
from service.http.errors import NotAcceptable

OFFERED = ("application/json", "text/csv", "image/png")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("TEXT/CSV; charset=utf-8", "text/csv"),
        ("image/*", "image/png"),
        ("text/html, image/png;q=0.5, */*;q=0.1", "image/png"),
        ("application/json;q=0.1, text/csv;q=0.9", "text/csv"),
        ("application/json;q=0, */*", "text/csv"),
        ("image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", "image/png"),
    ],
)
def test_the_type_with_the_highest_quality_is_chosen(accept: str | None, chosen: str) -> None:
    assert choose(accept, OFFERED) == chosen


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "application/json;q=x", "nonsense"])
def test_unavailable_types_are_rejected(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="available media types: application/json"):
        choose(accept, OFFERED)
