"""Responses with stored images: verified, and cacheable without limit because stored images never change."""

from typing import Any

from fastapi import Request, Response

from service.db.artifacts import ArtifactStore

PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
"""The documented response of a route that returns an image."""


def image_response(request: Request, artifacts: ArtifactStore, key: str, sha256: str) -> Response:
    """The PNG with the storage key `key`, or 304 if the client has it. Raises ArtifactDamaged."""
    headers = {"ETag": f'"{sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(artifacts.read(key, sha256), media_type="image/png", headers=headers)
