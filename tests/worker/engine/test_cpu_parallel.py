"""Threads that compute batches in parallel: results do not depend on timing."""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
import torch

from worker.engine.cpu_parallel import Check, batch_size_per_thread, map_batches, map_shares
from worker.engine.training.cost_meter import CostMeter
from worker.engine.training.distributed import Distributed

CPU = torch.device("cpu")
R = TypeVar("R")


def nothing() -> None:
    pass


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def parallel(functions: list[Callable[[Check], R]], check: Check = nothing) -> list[R]:
    """The results of functions that two threads call, one batch of 16 each."""

    def call(batch: range, check: Check) -> R:
        assert len(batch) == 16
        return functions[batch.start // 16](check)

    return map_batches(call, range(16 * len(functions)), CPU, 32, check)


@pytest.mark.parametrize(("batch_size", "own", "threads"), [(96, 24, 1), (40, 20, 2), (12, 12, 4), (1, 1, 4)])
def test_threads_share_the_cores_and_the_batch(four_threads: None, batch_size: int, own: int, threads: int) -> None:
    assert batch_size_per_thread(CPU, batch_size) == own
    found = map_batches(lambda batch, _: (batch, torch.get_num_threads()), range(3, 50), CPU, batch_size, nothing)
    assert {number for _, number in found} == {threads}
    assert [index for batch, _ in found for index in batch] == list(range(3, 50))
    assert {len(batch) for batch, _ in found[:-1]} <= {own}


def test_gpu_has_one_thread(four_threads: None) -> None:
    assert batch_size_per_thread(torch.device("cuda"), 96) == 96


def test_shares_are_interleaved_and_have_a_batch_size(four_threads: None) -> None:
    found = map_shares(lambda share, size, _: (list(share), size), list(range(100)), CPU, 64, nothing)
    assert found == [(list(range(first, 100, 16)), 16) for first in range(16)]


def test_single_thread_has_a_single_share(four_threads: None) -> None:
    assert map_shares(lambda share, size, _: (list(share), size), [5, 6, 7], CPU, 8, nothing) == [([5, 6, 7], 8)]


def test_batches_run_at_the_same_time_and_results_come_in_order(two_threads: None) -> None:
    together = threading.Barrier(2, timeout=30)

    def task(number: int) -> Callable[[Check], int]:
        def work(_: Check) -> int:
            together.wait()
            return number

        return work

    assert parallel([task(number) for number in range(6)]) == list(range(6))


def test_other_threads_keep_their_cores(four_threads: None) -> None:
    within = map_batches(lambda *_: torch.get_num_threads(), range(32), CPU, 32, nothing)
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (within, torch.get_num_threads(), later) == ([2, 2], 4, [4])


@pytest.mark.parametrize("grad", [False, True])
def test_gradients_are_recorded_where_the_caller_records_them(two_threads: None, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        assert parallel([lambda _: torch.is_grad_enabled()] * 2) == [grad, grad]


def test_error_aborts_every_thread(two_threads: None) -> None:
    begun = threading.Event()

    def fails(_: Check) -> None:
        begun.wait(30)
        raise ValueError("this one")

    def endless(check: Check) -> None:
        begun.set()
        while True:
            check()

    with pytest.raises(ValueError, match="this one"):
        parallel([fails, endless, endless])


def test_check_that_raises_aborts_every_thread(two_threads: None) -> None:
    left = iter(range(5))

    def check() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    def endless(check: Check) -> None:
        while True:
            check()

    with pytest.raises(KeyboardInterrupt):
        parallel([endless, endless], check)


def test_seconds_of_threads_add_up_to_those_of_the_clock(two_threads: None) -> None:
    meter, together = CostMeter(Distributed(CPU)), threading.Barrier(2, timeout=30)

    def timed(name: str) -> Callable[[Check], None]:
        def work(_: Check) -> None:
            with meter.part(name):
                together.wait()
                sum(range(100_000))
                together.wait()

        return work

    whole = CostMeter(Distributed(CPU))
    with whole.part("all"):
        parallel([timed("decode"), timed("reward")])
    seconds = {name: value for name, value in meter.take().items() if name.startswith("seconds/")}
    assert set(seconds) == {"seconds/decode", "seconds/reward"}
    assert 0 < sum(seconds.values()) <= whole.take()["seconds/all"]
