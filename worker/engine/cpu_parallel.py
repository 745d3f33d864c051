"""Lanes: threads that compute side by side on a CPU, each with its own share of every batch and of the cores.

The threads within an operator wait for each other at its end, so that one disturbed core delays all of them, thousands
of times a step. Lanes wait for each other once, when all is done.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

R = TypeVar("R")
Check = Callable[[], None]
"""Called between batches; may raise to abandon everything."""
LEAST_BATCH = 16
"""Samples of a lane's batch that are worth a lane: Python runs one lane at a time, operators all of them."""


class _Abandoned(Exception):
    """Another lane has raised."""


@dataclass(frozen=True)
class Lanes:
    """How many lanes there are, the threads within each one's operators, and the samples of each one's batches.

    Together they use as many threads as one caller would, and hold as many samples at a time.
    """

    number: int
    threads: int
    batch_size: int

    @classmethod
    def on(cls, device: torch.device, batch_size: int) -> "Lanes":
        """The lanes for batches of `batch_size`. A GPU has one."""
        threads = torch.get_num_threads()
        number = max(1, min(threads, batch_size // LEAST_BATCH)) if device.type == "cpu" else 1
        return cls(number, threads // number, batch_size // number)

    def run(self, tasks: Sequence[Callable[[Check], R]], check: Check) -> list[R]:
        """The tasks' results, in order. Each is given what it calls between batches; the first error ends them all.

        A task has its lane's threads, whichever lane it gets: what it computes depends on nothing else.
        """
        if self.number == 1:
            return [task(check) for task in tasks]
        own, grad = torch.get_num_threads(), torch.is_grad_enabled()
        turn, abandoned = threading.Lock(), threading.Event()

        def checked() -> None:
            with turn:
                if abandoned.is_set():
                    raise _Abandoned
                check()

        def whole(task: Callable[[Check], R]) -> R:
            try:
                with torch.set_grad_enabled(grad):
                    return task(checked)
            except BaseException:
                abandoned.set()
                raise

        with ThreadPoolExecutor(self.number, "lane", torch.set_num_threads, (self.threads,)) as pool:
            running: list[Future[R]] = []
            try:
                running += [pool.submit(whole, task) for task in tasks]
                return _results(running)
            finally:
                abandoned.set()
                pool.shutdown(cancel_futures=True)
                torch.set_num_threads(own)  # this thread's number never changed, but that of threads to come


def _results(running: Sequence[Future[R]]) -> list[R]:
    errors = [error for future in running if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, _Abandoned):
            raise error
    return [future.result() for future in running]
