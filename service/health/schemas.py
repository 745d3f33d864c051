"""How health is shown."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from service import examples
from service.errors import ReadinessCheck


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Everything the service stands on is there."""

    model_config = ConfigDict(json_schema_extra=examples.example(examples.READY))

    status: Literal["ready"] = "ready"
    checks: list[ReadinessCheck]
