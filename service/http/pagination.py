"""Paginate lists as `{"items": [...], "next_cursor": ...}`. Cursors encode the sort key of the last row of a page."""

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Sequence
from types import GenericAlias
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.http.errors import invalid

Item = TypeVar("Item")
Row = TypeVar("Row")

Limit = Annotated[int, Field(ge=1, le=200, description="Maximum number of items per page.")]
Text = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00]*$")]
"""The value of a text filter."""
Cursor = Annotated[
    str | None, Field(max_length=500, description="The `next_cursor` of the previous page; omit it for the first page.")
]


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(description="The `cursor` for the next page; null for the last page.")


class RowView(BaseModel):
    """A response model that can be created from a database row."""

    model_config = ConfigDict(from_attributes=True)


class StrictQuery(BaseModel):
    """Query parameters of a route, which rejects unknown parameters."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(StrictQuery):
    """Query parameters of a list: the page size and the cursor. Subclasses add filters."""

    limit: Limit = 50
    cursor: Cursor = None

    def given(self, *names: str) -> dict[str, Any]:
        """Return the filters that are not None, by name: those in `names`, or all filters if there are no names."""
        filters = set(names) or type(self).model_fields.keys() - PageQuery.model_fields.keys()
        return self.model_dump(include=filters, exclude_none=True)


def paged(
    session: Session,
    query: Select[Row],
    key: Sequence[InstrumentedAttribute[Any]],
    page_query: PageQuery,
    view: Callable[[Row], Item],
    *,
    ascending: bool = False,
    then: Sequence[ColumnElement[Any]] = (),
) -> Page[Item]:
    """Return a page of the rows of `query`, sorted by the unique columns `key`, by default in descending order.

    `then` sorts rows with equal keys, for queries with DISTINCT ON. Raises Invalid if the cursor is invalid.
    """
    query = query.order_by(*(key if ascending else [column.desc() for column in key]), *then)
    if page_query.cursor is not None:
        types: Any = GenericAlias(tuple, tuple(column.type.python_type for column in key))
        row_key, last = tuple_(*key), tuple_(*decode_cursor(page_query.cursor, TypeAdapter(types)))
        query = query.where(row_key > last if ascending else row_key < last)
    rows = session.scalars(query.limit(page_query.limit + 1)).all()
    page = rows[: page_query.limit]
    return Page(
        items=[view(row) for row in page],
        next_cursor=encode_cursor(*(getattr(page[-1], column.key) for column in key))
        if len(rows) > len(page)
        else None,
    )


def every_item(page_after: Callable[[str | None], Page[Item]]) -> Iterator[Item]:
    """Iterate over the items of a list. `page_after` returns the page at a cursor, or the first page for None."""
    cursor: str | None = None
    while True:
        page = page_after(cursor)
        yield from page.items
        if (cursor := page.next_cursor) is None:
            return


def encode_cursor(*key: Any) -> str:
    """Encode the sort key of a row as a cursor."""
    return base64.urlsafe_b64encode(json.dumps(key, default=str).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, key: TypeAdapter[Any]) -> Any:
    """Decode a cursor to a sort key of type `key`. Raises Invalid if the cursor is invalid."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return _storable(key.validate_json(text))
    except (binascii.Error, ValueError, ValidationError) as error:
        msg = "Invalid cursor; use the `next_cursor` of a page of this list"
        raise invalid(["query", "cursor"], msg, "cursor_invalid") from error


def _storable(key: Any) -> Any:
    """Return `key` unchanged. Raises ValueError for integers beyond 32 bits and strings that contain NUL."""
    for part in key:
        if (isinstance(part, int) and not -(2**31) <= part < 2**31) or (isinstance(part, str) and "\x00" in part):
            raise ValueError("the key is out of range")
    return key
