"""`g2rpo up`: run the stack in the foreground until a signal arrives."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from service.local.stack import Stack


class Interrupted(BaseException):
    """The process received Ctrl-C, SIGTERM or SIGHUP."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` on the first signal, and ignore later signals so that they cannot disturb the shutdown."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def up(data: Path, port: int, report: Callable[[str], None]) -> None:
    """Run the stack until a signal arrives. Raises EmbeddedError if a component does not start or fails repeatedly."""
    with interruptible():
        try:
            with Stack(data, port, report) as stack:
                report(f"ready at {stack.url} (dashboard, API documentation: {stack.url}/docs, logs: {stack.logs})")
                stack.ended.wait()
        except Interrupted:
            report("stopped")
            return
    if stack.failure is not None:
        raise stack.failure
