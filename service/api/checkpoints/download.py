"""Downloads in whole or in part: ranges, entity tags, digests (RFC 9110, RFC 9530)."""

import base64
import re
from collections.abc import Mapping

from fastapi import Response
from fastapi.responses import StreamingResponse

from service.db.artifacts import ArtifactStore, Stored
from service.http.errors import RangeNotSatisfiable

_MEDIA_TYPE = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def download(artifacts: ArtifactStore, file: Stored, method: str, headers: Mapping[str, str]) -> Response:
    """The file as the request's method and headers want it. Raises ArtifactDamaged, RangeNotSatisfiable.

    A whole file is hashed on its way: the last block of a damaged one is never sent, so the client sees it break off.
    Of a part the length of the file is checked; the client checks the hash once it has all parts.
    """
    etag = f'"{file.sha256}"'
    about = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": "attachment",
    }
    if etag in headers.get("if-none-match", ""):
        return Response(status_code=304, headers=about)
    if method == "HEAD":  # for which ranges mean nothing
        artifacts.check_size(file)
        return Response(None, 200, {**about, "Content-Length": str(file.size)}, _MEDIA_TYPE)
    part = byte_range(headers.get("range"), file.size) if headers.get("if-range", etag) == etag else None
    if part is None:
        about["Content-Length"] = str(file.size)
        return StreamingResponse(artifacts.stream(file), 200, about, _MEDIA_TYPE)
    start, length = part
    about["Content-Length"] = str(length)
    about["Content-Range"] = f"bytes {start}-{start + length - 1}/{file.size}"
    return StreamingResponse(artifacts.stream(file, start, length), 206, about, _MEDIA_TYPE)


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and length that a Range header asks for; None for the whole file, as for several ranges or other units."""
    match = _RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first == "":
        length = min(int(last), size)
        start = size - length
    else:
        start = int(first)
        end = min(int(last), size - 1) if last else size - 1
        if last and int(last) < start:
            return None
        length = end - start + 1
    if length <= 0:
        raise RangeNotSatisfiable(f"the file has {size} bytes", headers={"Content-Range": f"bytes */{size}"})
    return start, length
