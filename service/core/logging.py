"""Configure the logs of the service, the workers and their libraries: one JSON object per line on standard error.

Each line contains the ids of the request and the job that it belongs to, if any.
"""

import logging
import re
import sys
from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor

_OURS = ("service", "worker", "uvicorn", "celery")
"""Loggers that use the configured level. All other loggers use WARNING or higher."""
_PASSWORD = re.compile(r"(://[^:/@\s\"]*):[^@/\s\"]+@")
_KEY = re.compile(r"(g2k_[0-9A-Za-z]{8})[0-9A-Za-z]{30}")
_FIRST = ("time", "level", "event", "logger")


def configure(level: str, **always: str) -> None:
    """Log events of at least `level` as JSON lines, each of which includes the fields in `always`."""

    def add_always(_logger: Any, _method: str, event: EventDict) -> EventDict:
        return {**event, **always}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        add_always,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    lines = _Lines(sys.stderr)
    lines.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Local variables may contain secrets.
                structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
                _sort_fields,
                structlog.processors.JSONRenderer(default=str),
                _without_secrets,
            ],
        )
    )
    _install(lines, logging.getLevelNamesMapping().get(level.upper(), logging.INFO))


class _Lines(logging.StreamHandler[Any]):
    """This module's handler. The class distinguishes it from handlers that other code adds to the root logger."""


def _install(lines: _Lines, level: int) -> None:
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Lines)]:
        root.removeHandler(old)
    root.addHandler(lines)
    root.setLevel(max(level, logging.WARNING))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        server = logging.getLogger(name)
        server.handlers.clear()
        server.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # the request middleware logs every request, with its id
    logging.captureWarnings(True)


def _sort_fields(_logger: Any, _method: str, event: EventDict) -> EventDict:
    return {**{name: event[name] for name in _FIRST if name in event}, **event}


def _without_secrets(_logger: Any, _method: str, line: Any) -> Any:
    """Mask API keys and passwords in URLs, which libraries may include in messages."""
    return _KEY.sub(r"\1***", _PASSWORD.sub(r"\1:***@", line))
