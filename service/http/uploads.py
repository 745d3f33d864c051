"""Request bodies that are files: written to disk while they arrive."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path


async def receive(body: AsyncIterator[bytes], file: Path) -> str:
    """Write a request body to `file` and return its SHA-256, hexadecimal. The route limits its size."""
    digest = hashlib.sha256()
    with file.open("wb") as writing:
        async for part in body:
            digest.update(part)
            writing.write(part)
    return digest.hexdigest()
