"""Write uploaded files to disk while they are being received, and stop work for clients that have disconnected."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from fastapi import Request

from service.http.errors import ServiceError

_POLL_SECONDS = 0.5


async def receive(body: AsyncIterator[bytes], file: Path) -> str:
    """Write a request body to `file` and return its hexadecimal SHA-256. The route must limit its size."""
    digest = hashlib.sha256()
    with file.open("wb") as writing:
        async for part in body:
            digest.update(part)
            writing.write(part)
    return digest.hexdigest()


@contextlib.asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[Callable[[], None]]:
    """Provide a function, for any thread, that raises ServiceError after the client has disconnected.

    The body must have been read.
    """

    async def wait() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(_POLL_SECONDS)

    def check() -> None:
        if waiting.done():
            raise ServiceError("The client disconnected")

    waiting = asyncio.create_task(wait())
    try:
        yield check
    finally:
        waiting.cancel()
