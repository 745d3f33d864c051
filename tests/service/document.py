"""The OpenAPI document, created once per process because this takes half a second."""

import functools
from typing import Any

from service.app import create_app
from service.core.settings import Settings


@functools.cache
def document() -> dict[str, Any]:
    """The document of the service; callers must not modify it."""
    return create_app(Settings()).openapi()
