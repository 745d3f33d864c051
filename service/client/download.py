"""Downloads that go on where they broke off, and have their name only once they are whole."""

import hashlib
from pathlib import Path, PurePosixPath

import httpx

from service.api.checkpoints.schemas import CheckpointFileView
from service.client.errors import ApiError
from service.client.transport import Query, Transport

_BLOCK = 1 << 20


def save(transport: Transport, file: CheckpointFileView, directory: Path) -> Path:
    """Download a file of a checkpoint into `directory` under its name, checked against its hash.

    What has come is kept beside it as `.NAME.part`; the next call goes on from there. A file that is already there
    and right is left alone. Raises ApiError, OSError.
    """
    place = _place(directory, file.name)
    if place.is_file() and place.stat().st_size == file.size and _sha256(place) == file.sha256:
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    part.touch()
    while part.stat().st_size < file.size:
        transport.patiently(lambda: _fetch(transport, file, part))
    if _sha256(part) != file.sha256:
        part.unlink()
        raise ApiError(f"{file.name} came damaged: its SHA-256 is not {file.sha256}", code="download_damaged")
    part.replace(place)
    return place


def save_whole(transport: Transport, path: str, query: Query, file: Path) -> Path:
    """Save what is sent in one piece, such as an archive, as `file`. Raises ApiError where it breaks off, OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    with transport.opened("GET", path, query, {}) as response, part.open("wb") as writing:
        for block in response.iter_bytes(_BLOCK):
            writing.write(block)
    return part.replace(file)


def _fetch(transport: Transport, file: CheckpointFileView, part: Path) -> None:
    """Append what one request brings. Raises ApiError when that is nothing."""
    have = part.stat().st_size
    # A whole file is hashed by the service on its way; a rest is not, so ask for one only where there is something.
    headers = {"Range": f"bytes={have}-", "If-Range": f'"{file.sha256}"'} if have else {}
    try:
        with (
            transport.opened("GET", file.url, None, headers) as response,
            part.open("ab" if response.status_code == httpx.codes.PARTIAL_CONTENT else "wb") as writing,
        ):
            for block in response.iter_bytes(_BLOCK):
                writing.write(block)
    except ApiError:
        if part.stat().st_size <= have:
            raise


def _place(directory: Path, name: str) -> Path:
    """Where a file of that name goes. Raises ApiError for a name that leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.name:
        raise ApiError(f"the service names a file {name!r}, which would not lie in {directory}", code="foreign_path")
    return directory / path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
