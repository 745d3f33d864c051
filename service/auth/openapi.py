"""What the OpenAPI document says of keys: the scheme, each operation's scope, and the refusals."""

from http import HTTPStatus
from typing import Any

from service.auth.principal import Scope
from service.auth.scopes import SCOPES
from service.http.errors import problems

_SCHEME = "key"
_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)


def declare_keys(document: dict[str, Any]) -> None:
    """Add to `document` what a client has to know of keys."""
    document.setdefault("components", {}).setdefault("securitySchemes", {})[_SCHEME] = {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "g2k_…",
        "description": "An API key. Without any key in existence the service answers its own machine only, and asks "
        "for none.",
    }
    refusals = problems(*_REFUSALS)
    for methods in document["paths"].values():
        for operation in methods.values():
            scope = SCOPES.get(operation["operationId"], Scope.ADMIN)
            answers = operation["responses"]
            answers.setdefault(str(HTTPStatus.FORBIDDEN.value), refusals[HTTPStatus.FORBIDDEN])
            if scope is None:
                operation["security"] = []
                continue
            operation["security"] = [{_SCHEME: []}]
            operation["description"] += f"\n\nNeeds the scope `{scope}`."
            for status in _REFUSALS:
                answers.setdefault(str(status.value), refusals[status])
