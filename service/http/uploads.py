"""Files that come as a request's body: written to disk as they arrive, hashed on the way."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from service.http.errors import BodyTooLarge


async def receive(body: AsyncIterator[bytes], file: Path, most: int) -> str:
    """Write a request's body to `file`; its SHA-256, hexadecimal. Raises BodyTooLarge over `most` bytes."""
    digest, size = hashlib.sha256(), 0
    with file.open("wb") as writing:
        async for part in body:
            size += len(part)
            if size > most:
                raise BodyTooLarge(f"the file is larger than {most} bytes, the most that is taken")
            digest.update(part)
            writing.write(part)
    return digest.hexdigest()
