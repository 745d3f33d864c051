"""Authentication of every request, before its body is read."""

import functools
import ipaddress
import re

from starlette.datastructures import Headers, State
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from service.auth import scopes
from service.auth.authenticator import AWAY, NO_SCHEMA, Admission, Applicant
from service.auth.errors import HostNotAllowed, NotLocal
from service.auth.principal import LOCAL, Admitted
from service.http.errors import NotReady, ServiceError, answer_error
from service.http.routing import Routes
from service.middleware import response_cache


class Gate:
    """Lets requests in whose sender may ask for what they ask; `state.caller` then says who it is."""

    def __init__(self, app: ASGIApp, state: State, routes: Routes) -> None:
        self.app = app
        self.state = state
        self._routes = routes
        self._kept = response_cache.KeptAnswers()

    async def __call__(self, connection: Connection, receive: Receive, send: Send) -> None:
        if connection["type"] == "http":
            route = self._routes.find(connection)
            try:
                operation = route.operation_id if route else None
                admitted = await self._admitted(connection, operation)
            except (ServiceError, *AWAY) as error:
                if isinstance(error, NO_SCHEMA):
                    error = NotReady("the database has no schema, or another one; /readyz says more")
                answer = await answer_error(Request(connection), error)
                await answer(connection, receive, send)
                return
            connection["state"]["caller"] = admitted.caller
            if admitted.snapshot is not None and operation in response_cache.OPERATIONS:
                await self._kept.answer(admitted, self.app, connection, receive, send)
                return
        await self.app(connection, receive, send)

    async def _admitted(self, connection: Connection, operation: str | None) -> Admitted:
        admission: Admission = self.state.admission
        headers = Headers(scope=connection)
        applicant = Applicant(tuple(headers.getlist("Authorization")), _stranger(connection, headers))
        if connection["path"] in scopes.PUBLIC:
            if applicant.stranger is None:
                return Admitted(LOCAL, None)
            return Admitted(await admission.visitor(applicant), None)
        said: dict[str, str] = connection["state"]["answer_headers"]
        run = response_cache.run_asked(operation, connection.get("path_params", {}))
        return await admission.admit(applicant, operation, run, said)


def _stranger(connection: Connection, headers: Headers) -> ServiceError | None:
    client = connection.get("client")  # none on a unix socket
    if client is not None and not is_loopback(client[0]):
        return NotLocal(
            "without API keys the service answers to this machine only; make the first key by `g2rpo keys create` or "
            "G2RPO_ADMIN_KEY, and every machine may ask that shows one"
        )
    if not is_loopback(headers.get("host", "")):
        return HostNotAllowed(
            "without API keys the Host header must be localhost or a loopback address; the service answers to no other"
        )
    return None


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine: a web page that rebinds its name to 127.0.0.1 does not."""
    name = re.sub(r":\d{1,5}$", "", host)
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
