"""Questions that are answered together: what one round trip costs does not grow with how many it is for."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Rounds(Generic[Q, A]):
    """Asks all that is waiting at once, and not again within `pause` seconds.

    A question is asked after it was put, so its answer is never older than it. Who comes alone does not wait; among
    many, each waits for the next round. For the event loop's thread alone.
    """

    def __init__(self, ask: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], pause: float = 0.0) -> None:
        self._ask, self._pause = ask, pause
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._last = float("-inf")
        self._running: set[asyncio.Task[None]] = set()

    async def answer(self, question: Q) -> A:
        """The answer. Raises what asking raised, which everybody of the round is told."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, answered))
        if len(self._waiting) == 1:
            # Later, if only by one turn of the loop: who came at the same time comes along.
            loop.call_later(max(0.0, self._last + self._pause - loop.time()), self._begin)
        return await answered

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        waiting, self._waiting, self._last = self._waiting, [], loop.time()
        task = loop.create_task(self._round(waiting))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _round(self, waiting: list[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._ask([question for question, _ in waiting])
        except Exception as error:
            for _, answered in waiting:
                if not answered.done():  # who no longer wants to know has cancelled it
                    answered.set_exception(error)
            return
        for (_, answered), answer in zip(waiting, answers, strict=True):
            if not answered.done():
                answered.set_result(answer)
