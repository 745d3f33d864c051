"""What differs between the jobs that a child process does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from sqlalchemy.orm import Session

from service.contracts.runs import Limits
from service.db.models import SupervisedJob
from service.db.session import Database
from worker.jobs.claim import Claim, JobRow, held
from worker.jobs.command import Launch
from worker.jobs.ingest import Ingest


class Work(Protocol):
    """How jobs of one kind are prepared, read and concluded."""

    job: ClassVar[type[SupervisedJob]]
    stored: ClassVar[tuple[str, ...]]
    """Directories below an attempt's whose files are in the artifact store once it was read."""

    def limits(self, row: Any) -> Limits:
        """How long the job may take, and be silent."""

    def prepare(self, database: Database, claim: Claim, row: Any, directory: Path) -> Launch:
        """Have everything that the child needs in `directory`, and say how it is started."""

    def ingest(
        self,
        database: Database,
        claim: Claim,
        directory: Path,
        number: int | None = None,
        lock: Callable[[Session, Claim], JobRow] = held,
    ) -> Ingest[Any]:
        """The reader of an attempt's files."""

    def conclude(self, database: Database, claim: Claim) -> None:
        """Work out what follows from everything that was recorded, before the job comes to rest."""
