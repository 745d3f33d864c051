"""A job kind that exists only in tests, with its own table, to show that only the registries list job kinds."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from service.db.base import Base
from service.db.models import ApiKey, Job
from service.db.models.job import job_indexes
from service.db.session import Database


class _Base(DeclarativeBase):
    """Separate metadata, so that the service's tables do not change."""

    metadata = MetaData(naming_convention=dict(Base.metadata.naming_convention))
    type_annotation_map = Base.type_annotation_map


ApiKey.__table__.to_metadata(_Base.metadata)  # type: ignore[attr-defined]


class Sketch(Job, _Base):
    """A job with only the columns of every job kind."""

    __tablename__ = "sketches"
    __table_args__ = job_indexes("sketches")
    KIND = "sketch"
    QUEUE = "sketching"
    FOLDER = "sketches"


@contextmanager
def table(database: Database) -> Iterator[None]:
    """Create the table of sketches within the block."""
    sketches = [Sketch.__table__]
    _Base.metadata.create_all(database.engine, tables=sketches)  # type: ignore[arg-type]
    try:
        yield
    finally:
        _Base.metadata.drop_all(database.engine, tables=sketches)  # type: ignore[arg-type]
