"""`benchmarks`: prompts that models are judged on, as imported."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Index, Integer, Text, UniqueConstraint, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from service.contracts.benchmarks.data import Benchmark
from service.db.base import Base, new_id


class BenchmarkRow(Base):
    """A benchmark with one content. A later import of other content under the same name is another row.

    The one imported last is what the name means; the others stay for the scores that came from them.
    """

    __tablename__ = "benchmarks"
    __table_args__ = (UniqueConstraint("name", "content_sha256"), Index(None, "name", "imported_at"))

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Text)
    content_sha256: Mapped[str] = mapped_column(Text)
    """Of the prompts, their test points and the judge's words."""
    data_sha256: Mapped[str] = mapped_column(Text)
    """Of the file the prompts are from."""
    pinned: Mapped[bool] = mapped_column(Boolean)
    """Whether that file is the official one."""
    prompt_count: Mapped[int] = mapped_column(Integer)
    point_count: Mapped[int] = mapped_column(Integer)
    about: Mapped[dict[str, Any]]
    """`contracts.benchmarks.data.Benchmark` without its prompts, as JSON."""
    prompts: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, deferred=True)
    """Its prompts: a megabyte or so, which lists need not read."""
    imported_at: Mapped[datetime] = mapped_column(server_default=func.now())

    def benchmark(self) -> Benchmark:
        """The benchmark itself, with its prompts."""
        return Benchmark.model_validate({**self.about, "prompts": self.prompts})
