"""Write uploaded files to disk while they are being received."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path


async def receive(body: AsyncIterator[bytes], file: Path) -> str:
    """Write a request body to `file` and return its hexadecimal SHA-256. The route must limit its size."""
    digest = hashlib.sha256()
    with file.open("wb") as writing:
        async for part in body:
            digest.update(part)
            writing.write(part)
    return digest.hexdigest()
