"""The declarative base: constraint names, column types, shared columns, identifiers."""

import uuid
from datetime import datetime
from typing import Annotated, Any

import uuid_utils
from sqlalchemy import BigInteger, DateTime, Double, MetaData, Text, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.db.artifacts import Stored

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

BigInt = Annotated[int, 64]
"""An integer of 64 bits; `int` alone is a column of 32 bits."""
CreatedAt = Annotated[datetime, mapped_column(server_default=func.now())]
"""A time that defaults to that of the insertion."""


class Base(DeclarativeBase):
    """Every table. `str` is text, `dict` and `list` are JSONB, `datetime` is timestamptz."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads a plain dictionary here
        str: Text(),
        float: Double(),
        BigInt: BigInteger(),
        dict[str, Any]: JSONB(none_as_null=True),
        list[dict[str, Any]]: JSONB(none_as_null=True),
        list[int]: JSONB(none_as_null=True),
        datetime: DateTime(timezone=True),
        uuid.UUID: Uuid(),
    }


class StoredFile:
    """The columns of a file in the artifact store."""

    key: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[BigInt]
    """Bytes."""

    @property
    def stored(self) -> Stored:
        """The file."""
        return Stored(self.key, self.sha256, self.size)


def new_id() -> uuid.UUID:
    """A UUIDv7: unique, and ordered by the time of its creation."""
    return uuid.UUID(int=uuid_utils.uuid7().int)
