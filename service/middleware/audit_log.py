"""The audit log: one line for every request that changes data and for every refused request."""

import logging
from http import HTTPStatus
from uuid import UUID

import structlog
from starlette.types import Scope

from service.auth.principal import ANONYMOUS, Principal

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_REFUSED = frozenset({401, 403, 429})

log = structlog.get_logger("service.audit")
logging.getLogger("service.audit").setLevel(logging.INFO)  # independent of G2RPO_LOG_LEVEL, so that the log has no gaps


def record(scope: Scope, status: int, location: str | None, replayed: bool) -> None:
    """Write the audit line for a finished request if it changes data or was refused.

    The line contains the principal, route, ids and status. It never contains the body, query or headers sent by the
    client.
    """
    route = scope.get("route")
    changes = scope["method"] not in _READING and not getattr(route, "reads_only", False)
    if not changes and status not in _REFUSED:
        return
    state = scope["state"]
    principal: Principal = state.get("principal", ANONYMOUS)
    client = scope.get("client")
    ids = _ids(scope, status)
    log.info(
        "audit",
        key_id=str(principal.id) if principal.id else None,
        key_name=principal.name,
        key_prefix=principal.prefix or None,
        client=client[0] if client else None,
        method=scope["method"],
        route=getattr(route, "path", None),
        ids=ids,
        resource=location or (scope["path"] if ids else None),
        status=int(status),
        code=state.get("problem"),
        replayed=replayed,
    )


def _ids(scope: Scope, status: int) -> dict[str, str]:
    """Return the ids in the path. A name is included only if the request succeeded; otherwise it could be any text."""
    names = {"name"} if status < HTTPStatus.BAD_REQUEST else set()
    parameters = scope.get("path_params", {}).items()
    return {name: str(value) for name, value in parameters if name in names or _is_uuid(value)}


def _is_uuid(value: object) -> bool:
    try:
        UUID(str(value))
    except ValueError:
        return False
    return True
