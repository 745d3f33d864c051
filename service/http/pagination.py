"""Lists in pages: `{"items": [...], "next_cursor": ...}`, each page continuing after the last row of the one before."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from types import GenericAlias
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.http.errors import invalid

Item = TypeVar("Item")
Row = TypeVar("Row")

Limit = Annotated[int, Field(ge=1, le=200, description="Items of one page, at most 200.")]
Text = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00]*$")]
"""A text to filter by."""
Cursor = Annotated[
    str | None, Field(max_length=500, description="The `next_cursor` of the page before; unset for the first page.")
]


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(description="Ask again with `cursor=` this for what follows; null at the end.")


class PageQuery(BaseModel):
    """Query parameters of a list: the page size and the cursor. Lists with filters extend it."""

    model_config = ConfigDict(extra="forbid")

    limit: Limit = 50
    cursor: Cursor = None


def paged(
    session: Session,
    query: Select[Row],
    key: Sequence[InstrumentedAttribute[Any]],
    asked: PageQuery,
    view: Callable[[Row], Item],
    *,
    ascending: bool = False,
    then: Sequence[ColumnElement[Any]] = (),
) -> Page[Item]:
    """The asked page of the rows of `query`, which the columns `key` tell apart: greatest first, or least first.

    `then` sorts rows of the same key, for a query that takes the first of them. Raises Invalid.
    """
    query = query.order_by(*(key if ascending else [column.desc() for column in key]), *then)
    if asked.cursor is not None:
        types: Any = GenericAlias(tuple, tuple(column.type.python_type for column in key))
        place, last = tuple_(*key), tuple_(*decode_cursor(asked.cursor, TypeAdapter(types)))
        query = query.where(place > last if ascending else place < last)
    rows = session.scalars(query.limit(asked.limit + 1)).all()
    page = rows[: asked.limit]
    return Page(
        items=[view(row) for row in page],
        next_cursor=encode_cursor(*(getattr(page[-1], column.key) for column in key))
        if len(rows) > len(page)
        else None,
    )


def encode_cursor(*key: Any) -> str:
    """A cursor from the sort key of a page's last row."""
    return base64.urlsafe_b64encode(json.dumps(key, default=str).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, key: TypeAdapter[Any]) -> Any:
    """The sort key in a cursor, as `key` has it: one that the database can compare. Raises Invalid."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return _storable(key.validate_json(text))
    except (binascii.Error, ValueError, ValidationError) as error:
        raise invalid(
            ["query", "cursor"], "this is no cursor of this list; take `next_cursor` of a page of it", "cursor_invalid"
        ) from error


def _storable(key: Any) -> Any:
    """`key`, unless a row cannot have it: numbers of ours have 32 bits, and texts no NUL. Raises ValueError."""
    for part in key:
        if (isinstance(part, int) and not -(2**31) <= part < 2**31) or (isinstance(part, str) and "\x00" in part):
            raise ValueError("no row has such a key")
    return key
