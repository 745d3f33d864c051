"""How health is shown."""

from typing import Literal

from pydantic import BaseModel

from service.errors import ReadinessCheck


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Everything the service stands on is there."""

    status: Literal["ready"] = "ready"
    checks: list[ReadinessCheck]
