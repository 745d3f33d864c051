"""`/metrics`: what Prometheus reads."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.http.errors import problems

router = APIRouter(tags=["health"], route_class=ApiRoute)

_TEXT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The metrics, in the text format of Prometheus, or of OpenMetrics if that is accepted.",
        "content": {
            "text/plain": {"schema": {"type": "string"}},
            "application/openmetrics-text": {"schema": {"type": "string"}},
        },
    }
}


class _Exposition(Response):
    """What OpenAPI shows this route to answer with."""

    media_type = "text/plain"


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Measurements for Prometheus",
    response_class=_Exposition,
    responses={**_TEXT, **problems(422)},
)
@declare(Scope.READ, without_database=True)
def get_metrics(
    request: Request,
    accept: Annotated[str | None, Header(description="Prometheus' text, or `application/openmetrics-text`.")] = None,
) -> Response:
    """Requests of this process, and jobs, checkpoints and workers of the whole service.

    Without the database it still answers, with `g2rpo_database_up 0`. `docs/reference/metrics.md` lists every metric.
    """
    registry: CollectorRegistry = request.app.state.registry
    encode, content_type = choose_encoder(accept or "")
    return Response(encode(registry), headers={"Content-Type": content_type})
