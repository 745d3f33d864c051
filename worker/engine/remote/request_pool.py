"""A pool of threads with a bounded queue that send requests while other threads compute."""

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

A = TypeVar("A")

QUEUED = 4
"""Maximum number of queued requests per thread. It is limited because requests hold images in memory."""
_CHECK_SECONDS = 0.2


class RequestPool(Generic[A]):
    """Sends requests from up to `number` daemon threads, which are started on demand.

    `ThreadPoolExecutor` is not used because it joins its threads at exit, which could take as long as a server's
    timeout.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._queue: queue.Queue[tuple[Callable[[], A], Future[A]]] = queue.Queue(QUEUED * number)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def submit(self, request: Callable[[], A], check: Callable[[], None]) -> "Future[A]":
        """Queue a call of `request` and return its future. While the queue is full, call `check`, which may raise."""
        with self._lock:
            if len(self._threads) < self._number:
                thread = threading.Thread(target=self._run, name=f"request-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        future: Future[A] = Future()
        while True:
            with contextlib.suppress(queue.Full):
                self._queue.put((request, future), timeout=_CHECK_SECONDS)
                return future
            check()

    def _run(self) -> None:
        while True:
            request, future = self._queue.get()
            try:
                future.set_result(request())
            except BaseException as error:  # `future.result` raises this exception
                future.set_exception(error)
