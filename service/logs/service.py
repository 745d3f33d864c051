"""The rules of logs: bytes by offset, cut between characters."""

import uuid

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service import jobs
from service.db.models import LogChunk, Run
from service.logs.schemas import LogPart, LogQuery


def read(session: Session, run_id: uuid.UUID, query: LogQuery, most: int) -> LogPart:
    """The log of one attempt from `offset` on, at most `most` bytes. Raises NotFound."""
    jobs.find(session, Run, run_id)
    of_run = select(LogChunk).where(LogChunk.run_id == run_id)
    attempt = query.attempt or session.scalar(select(func.max(LogChunk.attempt)).where(LogChunk.run_id == run_id))
    if attempt is None:
        return LogPart(attempt=None, offset=0, next_offset=0, size=0, text="")
    of_attempt = of_run.where(LogChunk.attempt == attempt)
    last = session.scalar(of_attempt.order_by(LogChunk.offset.desc()).limit(1))
    size = last.offset + len(last.data) if last else 0
    begin = min(query.offset, size)
    wanted = min(query.limit or most, most)
    data = _bytes(session, run_id, attempt, begin, wanted)
    if begin + len(data) < size:
        data = data[: _whole_characters(data)]
    text = data.decode("utf-8", errors="replace")
    return LogPart(attempt=attempt, offset=begin, next_offset=begin + len(data), size=size, text=text)


def _bytes(session: Session, run_id: uuid.UUID, attempt: int, begin: int, wanted: int) -> bytes:
    chunks = session.scalars(
        select(LogChunk)
        .where(
            LogChunk.run_id == run_id,
            LogChunk.attempt == attempt,
            LogChunk.offset + func.length(LogChunk.data) > begin,
            LogChunk.offset < begin + wanted,
        )
        .order_by(LogChunk.offset)
    ).all()
    if not chunks:
        return b""
    return b"".join(chunk.data for chunk in chunks)[begin - chunks[0].offset :][:wanted]


def _whole_characters(data: bytes) -> int:
    """Bytes up to the last character that is whole: an answer never ends inside one."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue  # a continuation: its character began earlier
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return len(data) - back if length > back and back < len(data) else len(data)
    return len(data)
