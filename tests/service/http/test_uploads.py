"""Work for clients that disconnect."""

import asyncio

import pytest
from fastapi import Request
from starlette.types import Message

from service.http.errors import ServiceError
from service.http.uploads import while_connected


def test_work_ends_after_the_client_has_disconnected() -> None:
    async def work() -> None:
        left = asyncio.Event()

        async def receive() -> Message:
            await left.wait()
            return {"type": "http.disconnect"}

        async with while_connected(Request({"type": "http"}, receive)) as check:
            await asyncio.sleep(0)
            check()
            left.set()
            with pytest.raises(ServiceError, match="disconnected"):
                async with asyncio.timeout(30):
                    while True:
                        check()
                        await asyncio.sleep(0.01)

    asyncio.run(work())
