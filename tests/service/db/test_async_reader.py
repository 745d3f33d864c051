"""Looks: a few rows on one connection of the event loop's own."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest
from sqlalchemy import text

from service.db.async_reader import Looks
from service.db.session import Database, connect


@pytest.fixture
def looking(database: Database) -> Callable[[Callable[[Looks], Awaitable[None]]], None]:
    """Runs something with looks at the database, on an event loop that ends with it."""

    def run(what: Callable[[Looks], Awaitable[None]]) -> None:
        async def whole() -> None:
            looks = Looks(database)
            try:
                await what(looks)
            finally:
                await looks.close()

        asyncio.run(whole())

    return run


async def backend(looks: Looks) -> int:
    """The process of the server that answers."""
    [(pid,)] = await looks.rows("SELECT pg_backend_pid()")
    return int(pid)


def test_rows_are_told_and_none_where_there_are_none(looking: Callable[..., None]) -> None:
    async def look(looks: Looks) -> None:
        assert await looks.rows("SELECT 1 + %s, 'a' UNION ALL SELECT 5, 'b'", 2) == [(3, "a"), (5, "b")]
        assert await looks.rows("SELECT 1 WHERE false") == []

    looking(look)


def test_looks_at_once_each_have_their_own_rows(looking: Callable[..., None]) -> None:
    async def look(looks: Looks) -> None:
        rows = await asyncio.gather(*(looks.rows("SELECT %s::int", number) for number in range(50)))
        assert rows == [[(number,)] for number in range(50)]
        assert len({await backend(looks) for _ in range(3)}) == 1

    looking(look)


def test_a_lost_connection_is_made_again(looking: Callable[..., None], database: Database) -> None:
    async def look(looks: Looks) -> None:
        lost = await backend(looks)
        with database.transaction() as session:
            session.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": lost})
        assert await backend(looks) != lost

    looking(look)


def test_a_wrong_statement_and_a_cancelled_look_leave_the_next_one_well(looking: Callable[..., None]) -> None:
    async def look(looks: Looks) -> None:
        before = await backend(looks)
        with pytest.raises(psycopg.errors.UndefinedTable):
            await looks.rows("SELECT 1 FROM nothing_of_the_kind")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(looks.rows("SELECT pg_sleep(60)"), 0.05)
        assert await backend(looks) == before

    looking(look)


def test_without_a_database_it_says_so(database: Database) -> None:
    looks = Looks(connect(database.settings.model_copy(update={"database_url": "postgresql+psycopg://127.0.0.1:1/x"})))
    with pytest.raises(psycopg.OperationalError):
        asyncio.run(looks.rows("SELECT 1"))


def test_closed_it_serves_another_event_loop(database: Database) -> None:
    looks = Looks(database)

    async def at_once() -> None:
        assert await asyncio.gather(*(looks.rows("SELECT 1") for _ in range(5))) == [[(1,)]] * 5
        await looks.close()

    for _ in range(2):
        asyncio.run(at_once())
