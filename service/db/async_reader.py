"""Looks at the database that every request takes, without a thread and without a transaction."""

import asyncio
from typing import Any, LiteralString

import psycopg

from service.db.session import Database, arguments

_LOST = (psycopg.OperationalError, psycopg.InterfaceError)


class Looks:
    """Asks for a few rows at a time on one connection of the event loop's own, one after another.

    For a statement that finds its rows by an index, going to a thread, to a pool of connections and through a
    transaction would cost several times what the statement does. The connection is made at first use, and again after
    a loss.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Lock()
        self._cursor: psycopg.AsyncCursor[tuple[Any, ...]] | None = None

    async def rows(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """The answer. Raises what psycopg raises; a connection lost meanwhile is made again, once."""
        async with self._turn:
            if self._cursor is not None:
                try:
                    return await _rows(self._cursor, query, values)
                except _LOST:
                    await self._give_up()
            self._cursor = await self._connected()
            return await _rows(self._cursor, query, values)

    async def _connected(self) -> psycopg.AsyncCursor[tuple[Any, ...]]:
        engine, settings = self._database.engine, self._database.settings
        made: dict[str, Any] = {**engine.dialect.create_connect_args(engine.url)[1], **arguments(settings)}
        return (await psycopg.AsyncConnection.connect(**made, autocommit=True)).cursor(binary=True)

    async def _give_up(self) -> None:
        if self._cursor is not None:
            cursor, self._cursor = self._cursor, None
            await cursor.connection.close()

    async def close(self) -> None:
        """Give up the connection. Another event loop may then use this."""
        await self._give_up()
        self._turn = asyncio.Lock()


async def _rows(
    cursor: psycopg.AsyncCursor[tuple[Any, ...]], query: LiteralString, values: tuple[object, ...]
) -> list[tuple[Any, ...]]:
    await cursor.execute(query, values, prepare=True)
    return await cursor.fetchall()
