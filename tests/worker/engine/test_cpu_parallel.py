"""Lanes: work side by side whose results depend on no timing."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from worker.engine.cpu_parallel import Check, Lanes
from worker.engine.training.cost_meter import Meter

CPU = torch.device("cpu")
TWO = Lanes(2, 1, 16)


def nothing() -> None:
    pass


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("batch_size", "lanes"),
    [(96, Lanes(4, 1, 24)), (40, Lanes(2, 2, 20)), (12, Lanes(1, 4, 12)), (1, Lanes(1, 4, 1))],
)
def test_lanes_share_the_threads_and_the_batch(four_threads: None, batch_size: int, lanes: Lanes) -> None:
    assert Lanes.on(CPU, batch_size) == lanes


def test_a_gpu_has_one_lane(four_threads: None) -> None:
    assert Lanes.on(torch.device("cuda"), 96) == Lanes(1, 4, 96)


def test_tasks_run_at_once_and_results_come_in_order() -> None:
    together = threading.Barrier(2, timeout=30)

    def task(number: int) -> Callable[[Check], int]:
        def work(_: Check) -> int:
            together.wait()
            return number

        return work

    assert TWO.run([task(number) for number in range(6)], nothing) == list(range(6))


def test_a_lane_has_its_threads_and_leaves_everybody_else_theirs(four_threads: None) -> None:
    within = Lanes(2, 2, 16).run([lambda _: torch.get_num_threads()] * 2, nothing)
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (within, torch.get_num_threads(), later) == ([2, 2], 4, [4])


@pytest.mark.parametrize("grad", [False, True])
def test_gradients_are_recorded_where_the_caller_records_them(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        assert TWO.run([lambda _: torch.is_grad_enabled()] * 2, nothing) == [grad, grad]


def test_an_error_ends_every_lane() -> None:
    begun = threading.Event()

    def fails(_: Check) -> None:
        begun.wait(30)
        raise ValueError("this one")

    def endless(check: Check) -> None:
        begun.set()
        while True:
            check()

    with pytest.raises(ValueError, match="this one"):
        TWO.run([fails, endless, endless], nothing)


def test_a_check_that_raises_ends_every_lane() -> None:
    left = iter(range(5))

    def check() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    def endless(check: Check) -> None:
        while True:
            check()

    with pytest.raises(KeyboardInterrupt):
        TWO.run([endless, endless], check)


def test_seconds_of_lanes_are_those_of_the_clock() -> None:
    meter, together = Meter(CPU), threading.Barrier(2, timeout=30)

    def lane(name: str) -> Callable[[Check], None]:
        def work(_: Check) -> None:
            with meter.part(name):
                together.wait()
                sum(range(100_000))
                together.wait()

        return work

    whole = Meter(CPU)
    with whole.part("all"):
        TWO.run([lane("decode"), lane("reward")], nothing)
    seconds = {name: value for name, value in meter.take().items() if name.startswith("seconds/")}
    assert set(seconds) == {"seconds/decode", "seconds/reward"}
    assert 0 < sum(seconds.values()) <= whole.take()["seconds/all"]
