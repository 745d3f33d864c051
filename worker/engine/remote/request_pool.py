"""Threads that ask beside whoever computes: so many at once, and a bounded number of questions waiting."""

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

A = TypeVar("A")

WAITING = 4
"""Questions that may wait for each thread: they hold images, which fill memory."""
_LOOK_SECONDS = 0.2


class Askers(Generic[A]):
    """`number` threads, started when there is something to ask. They do not keep the process from ending.

    (A pool of the standard library's would: its threads are joined at exit, up to a timeout of the server's later.)
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting: queue.Queue[tuple[Callable[[], A], Future[A]]] = queue.Queue(WAITING * number)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def submit(self, ask: Callable[[], A], check: Callable[[], None]) -> "Future[A]":
        """Have `ask` called by one of the threads, once there is room; meanwhile `check` is called, and may raise."""
        with self._lock:
            if len(self._threads) < self._number:
                thread = threading.Thread(target=self._run, name=f"asker-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        future: Future[A] = Future()
        while True:
            with contextlib.suppress(queue.Full):
                self._waiting.put((ask, future), timeout=_LOOK_SECONDS)
                return future
            check()

    def _run(self) -> None:
        while True:
            ask, future = self._waiting.get()
            try:
                future.set_result(ask())
            except BaseException as error:  # raised where it is waited for
                future.set_exception(error)
