"""The OpenAPI document, made once in a process: it takes half a second and is the same for all settings."""

import functools
from typing import Any

from service.app import create_app
from service.core.settings import Settings


@functools.cache
def document() -> dict[str, Any]:
    """The document of the service; whoever reads it leaves it as it is."""
    return create_app(Settings()).openapi()
