"""The declarative base of all tables, with constraint names, column types, shared columns and identifiers."""

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
"""A 64-bit integer column. A plain `int` is a 32-bit column."""
CreatedAt = Annotated[datetime, mapped_column(server_default=func.now())]
"""A timestamp column that defaults to the time of insertion."""


class Base(DeclarativeBase):
    """The base class of all tables. `str` maps to text, `dict` and `list` to JSONB, and `datetime` to timestamptz."""

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
    """The columns that describe a file in the artifact store."""

    key: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[BigInt]
    """Size in bytes."""

    @property
    def stored(self) -> Stored:
        """The file's key, hash and size as one value."""
        return Stored(self.key, self.sha256, self.size)


def new_id() -> uuid.UUID:
    """Create a UUIDv7, which is unique and sorts by creation time."""
    return uuid.UUID(int=uuid_utils.uuid7().int)
