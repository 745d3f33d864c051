"""Rounds: many questions, one asking."""

import asyncio
from collections.abc import Sequence

import pytest

from service.auth.batching import Rounds


class Oracle:
    """Answers with the question doubled, and remembers what was asked together."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, questions: Sequence[int]) -> list[int]:
        self.asked.append(list(questions))
        await self.free.wait()
        if 13 in questions:
            raise LookupError("thirteen")
        return [2 * question for question in questions]


def test_who_comes_together_is_asked_together_and_gets_an_answer_each() -> None:
    async def ask() -> None:
        oracle = Oracle()
        rounds = Rounds(oracle)
        assert await asyncio.gather(*(rounds.answer(number) for number in range(5))) == [0, 2, 4, 6, 8]
        assert oracle.asked == [[0, 1, 2, 3, 4]]

    asyncio.run(ask())


def test_what_comes_after_an_asking_has_begun_is_asked_anew() -> None:
    async def ask() -> None:
        oracle = Oracle()
        oracle.free.clear()
        rounds = Rounds(oracle)
        first = asyncio.create_task(rounds.answer(1))
        while not oracle.asked:
            await asyncio.sleep(0)
        second = asyncio.create_task(rounds.answer(1))
        while len(oracle.asked) < 2:
            await asyncio.sleep(0)
        oracle.free.set()
        assert [await first, await second] == [2, 2]
        assert oracle.asked == [[1], [1]]

    asyncio.run(ask())


def test_rounds_keep_their_distance_and_who_comes_alone_does_not_wait() -> None:
    async def ask() -> None:
        oracle, pause = Oracle(), 0.05
        rounds, clock = Rounds(oracle, pause), asyncio.get_running_loop().time
        began = clock()
        await rounds.answer(1)
        alone = clock() - began
        await asyncio.gather(rounds.answer(2), rounds.answer(3))
        assert alone < pause <= clock() - began
        assert oracle.asked == [[1], [2, 3]]

    asyncio.run(ask())


def test_a_failure_is_told_to_all_of_its_round_and_to_no_other() -> None:
    async def ask() -> None:
        oracle = Oracle()
        rounds = Rounds(oracle)
        answers = await asyncio.gather(rounds.answer(1), rounds.answer(13), return_exceptions=True)
        assert [type(answer) for answer in answers] == [LookupError, LookupError]
        assert await rounds.answer(1) == 2

    asyncio.run(ask())


def test_who_leaves_takes_nothing_from_the_others() -> None:
    async def ask() -> None:
        oracle = Oracle()
        oracle.free.clear()
        rounds = Rounds(oracle)
        leaving, staying = (asyncio.create_task(rounds.answer(number)) for number in (1, 2))
        while not oracle.asked:
            await asyncio.sleep(0)
        leaving.cancel()
        oracle.free.set()
        assert await staying == 4
        with pytest.raises(asyncio.CancelledError):
            await leaving

    asyncio.run(ask())
