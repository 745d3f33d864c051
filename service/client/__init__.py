"""The Python client that the CLI, the demo and the tests use; see docs/get-started/python-client.md."""

from service.api.events.schemas import EvaluationEnd, EvaluationProgress, RunEnd, RunEvent, RunProgress
from service.client.client import DEFAULT_URL, Client
from service.client.errors import ApiError
from service.client.events import Event

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "Client",
    "EvaluationEnd",
    "EvaluationProgress",
    "Event",
    "RunEnd",
    "RunEvent",
    "RunProgress",
]
