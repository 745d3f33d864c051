"""A kind of jobs that exists in tests only, with its own table: only the registries list kinds."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from service.db.base import Base
from service.db.models import ApiKey, Job
from service.db.models.job import job_indexes
from service.db.session import Database


class _Base(DeclarativeBase):
    """Separate metadata, so that the tables of the service stay as they are."""

    metadata = MetaData(naming_convention=dict(Base.metadata.naming_convention))
    type_annotation_map = Base.type_annotation_map


ApiKey.__table__.to_metadata(_Base.metadata)  # type: ignore[attr-defined]


class Sketch(Job, _Base):
    """A job without columns beyond those of every kind."""

    __tablename__ = "sketches"
    __table_args__ = job_indexes("sketches")
    KIND = "sketch"
    QUEUE = "sketching"
    FOLDER = "sketches"


@contextmanager
def table(database: Database) -> Iterator[None]:
    """Within the block, the table of sketches exists."""
    sketches = [Sketch.__table__]
    _Base.metadata.create_all(database.engine, tables=sketches)  # type: ignore[arg-type]
    try:
        yield
    finally:
        _Base.metadata.drop_all(database.engine, tables=sketches)  # type: ignore[arg-type]
