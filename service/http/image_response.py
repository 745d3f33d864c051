"""Answering with a stored image: checked, cacheable for ever, since a stored image never changes."""

from typing import Any

from fastapi import Request, Response

from service.db.artifacts import ArtifactStore

PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
"""The documented answer of a route that gives an image."""


def image_response(request: Request, artifacts: ArtifactStore, key: str, sha256: str) -> Response:
    """The PNG under `key`, or 304 for a client that has it. Raises ArtifactDamaged."""
    headers = {"ETag": f'"{sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(artifacts.read(key, sha256), media_type="image/png", headers=headers)
