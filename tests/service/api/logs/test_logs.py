"""`/runs/{run_id}/logs`: parts by byte offset, split between characters."""

import uuid
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.contracts.status import JobStatus
from service.db.models.run import LogChunk
from service.db.session import Database

TEXT = "step 1: reward 0.9\nη = 0.7, σ → 0 \N{WHITE HEAVY CHECK MARK}\nend\n"
EMPTY = {"attempt": 1, "offset": 0, "next_offset": 0, "size": 0, "next_attempt": None, "text": ""}


@pytest.fixture
def run(records: Any) -> Any:
    return records.run(JobStatus.RUNNING)


def write(database: Database, run: Any, data: bytes, attempt: int = 1, size: int = 5) -> None:
    """Store a log in chunks that may split characters."""
    with database.transaction() as session:
        for offset in range(0, len(data), size):
            session.add(LogChunk(run_id=run.id, attempt=attempt, offset=offset, data=data[offset : offset + size]))


def read(client: TestClient, run: Any, query: str = "") -> dict[str, Any]:
    response = client.get(f"/runs/{run.id}/logs{query}")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_a_run_without_output_has_an_empty_log(client: TestClient, run: Any) -> None:
    assert read(client, run) == EMPTY | {"attempt": None}


def test_the_complete_log_is_returned(client: TestClient, run: Any, database: Database) -> None:
    write(database, run, TEXT.encode())
    size = len(TEXT.encode())
    assert read(client, run) == EMPTY | {"next_offset": size, "size": size, "text": TEXT}


@pytest.mark.parametrize("limit", range(4, 12))
def test_reading_in_parts_returns_the_complete_log(
    client: TestClient, run: Any, database: Database, limit: int
) -> None:
    write(database, run, TEXT.encode())
    text, offset = "", 0
    while True:
        part = read(client, run, f"?offset={offset}&limit={limit}")
        assert part["offset"] == offset and len(part["text"].encode()) == part["next_offset"] - offset <= limit
        if part["next_offset"] == offset:
            break
        text, offset = text + part["text"], part["next_offset"]
    assert text == TEXT


def test_invalid_utf8_is_replaced(client: TestClient, run: Any, database: Database) -> None:
    data = b"a\xff\x80\x80\x80\x80\x80b\x00c\xc3"
    write(database, run, data)
    offset, text = 0, ""
    while offset < len(data):
        part = read(client, run, f"?offset={offset}&limit=4")
        assert part["next_offset"] > offset
        offset, text = part["next_offset"], text + part["text"]
    assert text.startswith("a\N{REPLACEMENT CHARACTER}") and "b\x00c" in text


def test_the_newest_attempt_is_the_default(client: TestClient, run: Any, database: Database) -> None:
    write(database, run, b"first", attempt=1)
    write(database, run, b"second", attempt=2)
    assert read(client, run)["text"] == "second"
    assert read(client, run, "?attempt=1")["text"] == "first"
    assert read(client, run, "?attempt=3")["size"] == 0


def test_an_attempt_links_to_the_next_attempt_with_output(client: TestClient, run: Any, database: Database) -> None:
    for attempt in (1, 2, 5):
        write(database, run, b"words", attempt=attempt)
    assert [read(client, run, f"?attempt={attempt}")["next_attempt"] for attempt in (1, 2, 3, 5)] == [2, 5, 5, None]


@pytest.mark.parametrize("offset", range(0, len(TEXT.encode()) + 1, 7))
def test_any_offset_returns_the_remaining_log(client: TestClient, run: Any, database: Database, offset: int) -> None:
    write(database, run, TEXT.encode())
    rest = TEXT.encode()[offset:].decode(errors="replace")
    assert read(client, run, f"?offset={offset}")["text"] == rest


def test_an_offset_after_the_end_returns_no_text(client: TestClient, run: Any, database: Database) -> None:
    write(database, run, b"abc")
    assert read(client, run, "?offset=999") == EMPTY | {"offset": 3, "next_offset": 3, "size": 3}


def test_plain_text_is_returned_if_accepted(client: TestClient, run: Any, database: Database) -> None:
    write(database, run, TEXT.encode())
    response = client.get(f"/runs/{run.id}/logs", headers={"Accept": "text/plain"})
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert (response.text, response.headers["X-Next-Offset"]) == (TEXT, str(len(TEXT.encode())))


def test_an_unknown_run_is_not_found(client: TestClient) -> None:
    assert client.get(f"/runs/{uuid.uuid4()}/logs").status_code == 404


@pytest.mark.parametrize("query", ["offset=-1", "limit=0", "attempt=0", f"offset={2**63}", "tail=1"])
def test_an_invalid_query_is_rejected(client: TestClient, run: Any, query: str) -> None:
    assert client.get(f"/runs/{run.id}/logs?{query}").status_code == 422
