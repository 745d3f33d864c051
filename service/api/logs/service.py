"""Read parts of logs by byte offset without splitting UTF-8 characters."""

import codecs
import uuid
from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from service.api.logs.schemas import LogPart, LogQuery
from service.db.models import Evaluation, Run, SupervisedJob
from service.jobs import views


def read(
    session: Session, job: type[Run] | type[Evaluation], id: uuid.UUID, query: LogQuery, max_bytes: int
) -> LogPart:
    """Return up to `max_bytes` bytes of an attempt's log, starting at the query's offset.

    Raises NotFound if the job does not exist.
    """
    views.find(session, job, id)
    logs = job.LOGS
    attempts = select(logs.attempt).where(logs.job_id == id)
    attempt = query.attempt or session.scalar(attempts.order_by(logs.attempt.desc()).limit(1))
    if attempt is None:
        return LogPart(attempt=None, offset=0, next_offset=0, size=0, next_attempt=None, text="")
    of_attempt = (logs.job_id == id, logs.attempt == attempt)
    # Query this before the size: once a later attempt has output, the log of this attempt is final.
    later = session.scalar(attempts.where(logs.attempt > attempt).order_by(logs.attempt).limit(1))
    end = select(logs.offset + func.length(logs.data)).where(*of_attempt)
    size = session.scalar(end.order_by(logs.offset.desc()).limit(1)) or 0
    start = min(query.offset, size)
    data = _bytes(session, job, of_attempt, start, min(query.limit or max_bytes, max_bytes))
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=start + len(data) >= size)
    next_offset = start + len(data) - len(decoder.getstate()[0])  # without an incomplete character at the end
    return LogPart(attempt=attempt, offset=start, next_offset=next_offset, size=size, next_attempt=later, text=text)


def _bytes(
    session: Session, job: type[SupervisedJob], of_attempt: Sequence[ColumnElement[bool]], start: int, count: int
) -> bytes:
    logs = job.LOGS
    first = select(func.max(logs.offset)).where(*of_attempt, logs.offset <= start).scalar_subquery()
    chunks = session.scalars(
        select(logs).where(*of_attempt, logs.offset >= first, logs.offset < start + count).order_by(logs.offset)
    ).all()
    if not chunks:
        return b""
    return b"".join(chunk.data for chunk in chunks)[start - chunks[0].offset :][:count]
