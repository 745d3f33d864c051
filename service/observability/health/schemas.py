"""How health is shown."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from service.http import openapi_examples
from service.http.errors import ReadinessCheck


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Everything the service stands on is there."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.READY))

    status: Literal["ready"] = "ready"
    checks: list[ReadinessCheck]
