"""The audit trail: a line of the log for every request that changes something, or that is turned away."""

import logging
from http import HTTPStatus
from uuid import UUID

import structlog
from starlette.types import Scope as Connection

from service.auth.principal import ANONYMOUS, Caller

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PURE = frozenset({"/plans", "/benchmarks/{name}/rescore"})
"""Routes whose POST changes nothing."""
_TURNED_AWAY = frozenset({401, 403, 429})

log = structlog.get_logger("service.audit")
logging.getLogger("service.audit").setLevel(logging.INFO)  # whatever G2RPO_LOG_LEVEL says: a trail has no gaps


def record(connection: Connection, status: int, location: str | None, replayed: bool) -> None:
    """Write the line of a request that was answered, if it is one that needs a line.

    It never holds a body, a query or a header that the client wrote: who, what route, which ids, what came of it.
    """
    route = getattr(connection.get("route"), "path", None)
    changes = connection["method"] not in _READING and route not in _PURE
    if not changes and status not in _TURNED_AWAY:
        return
    state = connection["state"]
    caller: Caller = state.get("caller", ANONYMOUS)
    client = connection.get("client")
    ids = _ids(connection, status)
    log.info(
        "audit",
        key_id=str(caller.id) if caller.id else None,
        key_name=caller.name,
        key_prefix=caller.prefix or None,
        client=client[0] if client else None,
        method=connection["method"],
        route=route,
        ids=ids,
        resource=location or (connection["path"] if ids else None),
        status=int(status),
        code=state.get("problem"),
        replayed=replayed,
    )


def _ids(connection: Connection, status: int) -> dict[str, str]:
    """What the path names. A name counts as such once something was found by it: till then it may be anything."""
    named = {"name"} if status < HTTPStatus.BAD_REQUEST else set()
    said = connection.get("path_params", {}).items()
    return {name: str(value) for name, value in said if name in named or _is_id(value)}


def _is_id(value: object) -> bool:
    try:
        UUID(str(value))
    except ValueError:
        return False
    return True
