"""The declarative base: constraint names, column types, identifiers."""

import uuid
from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import DateTime, MetaData, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Every table. `dict` is JSONB, `datetime` is timestamptz."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads a plain dictionary here
        dict[str, Any]: JSONB(none_as_null=True),
        datetime: DateTime(timezone=True),
        uuid.UUID: Uuid(),
    }


def new_id() -> uuid.UUID:
    """A UUIDv7: unique, and ordered by the time it was made."""
    return uuid.UUID(int=uuid_utils.uuid7().int)
