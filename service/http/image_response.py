"""Responses that contain stored images. They can be cached indefinitely because stored images never change."""

from typing import Any

from fastapi import Request, Response

from service.db.artifacts import ArtifactStore
from service.http.content_negotiation import is_current

PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
"""The OpenAPI response of a route that returns an image."""


def image_response(request: Request, artifacts: ArtifactStore, key: str, sha256: str) -> Response:
    """Return the PNG stored under `key`, or status 304 if the client already has it.

    Raises ArtifactDamaged if the PNG is missing or does not match `sha256`.
    """
    headers = {"ETag": f'"{sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if is_current(headers["ETag"], request.headers.get("if-none-match")):
        return Response(status_code=304, headers=headers)
    return Response(artifacts.read(key, sha256), media_type="image/png", headers=headers)
