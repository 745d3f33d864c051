"""Whether the service can work."""

from service.core.catalog_loader import Offer
from service.db.session import Database
from service.http.errors import NotReady, ReadinessCheck
from service.jobs.queue import Queue
from service.observability.health import checks
from service.observability.health.findings import look
from service.observability.health.schemas import Ready


def readiness(database: Database, queue: Queue, offer: Offer, details: bool = True) -> Ready:
    """Every check, all well. Raises NotReady, with every check, unless they are.

    Without `details` it says what is missing, but neither why nor where.
    """
    looked = [
        look("database", lambda: checks.database(database)),
        look("schema", lambda: checks.schema(database)),
        look("broker", lambda: checks.broker(queue)),
        look(
            "storage",
            lambda: checks.storage(database),
            "mend G2RPO_STORAGE_URL, or make its place writable with room left",
        ),
    ]
    looked.append(look("catalog", lambda: checks.catalog(offer)))
    # Jobs are accepted, and wait, where nobody works.
    looked.append(look("workers", lambda: checks.workers(database)).model_copy(update={"ok": True}))
    if not details:
        looked = [ReadinessCheck(name=check.name, ok=check.ok, detail="") for check in looked]
    failed = [check for check in looked if not check.ok]
    if failed:
        causes = [f"{check.name}: {check.detail}" for check in failed if check.hint]
        detail = "; ".join(causes) or f"missing: {', '.join(check.name for check in failed)}"
        raise NotReady(detail, checks=[check.model_dump() for check in looked])
    return Ready(checks=looked)
