"""Paused, resumed and cloned runs on the bundled model end bit-identical to uninterrupted runs."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contracts.attempt_files import CONTROL_FILE
from service.contracts.presets import merge
from tests.worker.engine.training.miniature import HalfRun, events, metrics, newest, small, tensors, trainer
from worker.engine.cpu_parallel import batch_size_per_thread
from worker.engine.training.checkpoint import read_manifest
from worker.engine.training.event_log import Paused
from worker.engine.training.trainer import Trainer

pytestmark = pytest.mark.long


FULL: dict[str, Any] = {
    "training": {"adapter": "full", "learning_rate": 1e-4, "max_steps": 2},
    "heldout": {"every": 1},
    "checkpoints": {"every": 1},
}


@pytest.mark.parametrize(("adapter", "changes", "middle"), [("lora", {}, 2), ("full", FULL, 1)])
def test_resuming_ends_bit_identical(
    adapter: str, changes: dict[str, Any], middle: int, finished: Path, tmp_path: Path
) -> None:
    straight = finished if adapter == "lora" else tmp_path / "straight"
    if adapter == "full":
        trainer(straight, **changes).run()
    resumed = trainer(tmp_path / "resumed", **changes)
    resumed.checkpoints.resume(straight / f"checkpoints/step-{middle:06d}")
    resumed.run()

    one, other = (root / f"checkpoints/step-{2 * middle:06d}" for root in (straight, tmp_path / "resumed"))
    assert read_manifest(one).kind == adapter
    assert tensors(one) == tensors(other)
    assert tensors(one) != tensors(straight / f"checkpoints/step-{middle:06d}")
    recorded, known = newest(tmp_path / "resumed"), newest(straight)
    assert recorded == {key: value for key, value in known.items() if key[0] > middle or key in recorded}
    # An attempt between the two may have logged totals of the middle step before its evaluation.
    assert {(middle, "nfe/total"), (middle, "images/total")} <= recorded.keys()
    assert events(tmp_path / "resumed", "finished")[0]["heldout"] == events(straight, "finished")[0]["heldout"]


def call(subject: Trainer, number: int, action: Callable[[], object]) -> None:
    """Call a function during the `number`-th forward pass of the model from now on."""
    calls = itertools.count(1)

    def hook(*_: object) -> None:
        if next(calls) == number:
            action()

    subject.model.transformer.register_forward_hook(hook)


def ask(directory: Path, **control: Any) -> None:
    (directory / CONTROL_FILE).write_text(json.dumps(control))


SMALL_BATCHES: dict[str, Any] = {
    "sampling": {"rollout_batch_size": 4},
    "training": {"max_steps": 2},
    "heldout": {"every": 1, "pairs": 8, "final_pairs": 8},
    "checkpoints": {"every": 1},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str]]]:
    """The directory of a run with small batches, and the completed steps and phase at each forward pass."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    subject = trainer(directory, **SMALL_BATCHES)
    forwards: list[tuple[int, str]] = []
    subject.model.transformer.register_forward_hook(lambda *_: forwards.append((subject.step, subject.progress.phase)))
    subject.run()
    return directory, forwards


@pytest.mark.parametrize(
    ("done", "phase", "place", "saved"),
    [
        (0, "evaluation", 0.0, 0),
        (0, "rollout", 0.5, 0),
        (0, "update", 1.0, 1),
        (1, "evaluation", 1.0, 1),
        (1, "rollout", 1.0, 1),
        (2, "evaluation", 0.5, 2),
    ],
)
def test_run_paused_in_any_phase_ends_bit_identical(
    done: int, phase: str, place: float, saved: int, uninterrupted: tuple[Path, list[tuple[int, str]]], tmp_path: Path
) -> None:
    """Pause requests during the first, middle or last forward pass of each phase."""
    straight, forwards = uninterrupted
    within = [number for number, at in enumerate(forwards, start=1) if at == (done, phase)]
    paused = trainer(tmp_path / "paused", **SMALL_BATCHES)
    call(paused, within[round(place * (len(within) - 1))], lambda: ask(tmp_path / "paused", action="pause"))
    with pytest.raises(Paused):
        paused.run()
    paused.pause()
    (end,) = events(tmp_path / "paused", "finished")
    assert (end["outcome"], end["step"]) == ("paused", saved)
    written = events(tmp_path / "paused", "checkpoint")[-1]
    assert written["step"] == saved

    resumed = trainer(tmp_path / "resumed", **SMALL_BATCHES)
    resumed.checkpoints.resume(tmp_path / "paused" / written["directory"])
    resumed.run()

    last = "checkpoints/step-000002"
    assert tensors(tmp_path / "resumed" / last) == tensors(straight / last)
    # Records of the same step are equal in both attempts; together, they equal the records of the uninterrupted run.
    reported = metrics(tmp_path / "paused") + metrics(tmp_path / "resumed")
    assert sorted(set(reported)) == sorted(set(metrics(straight)))
    groups = {event["step"]: event["groups"] for name in ("paused", "resumed") for event in groups_of(tmp_path / name)}
    assert groups == {event["step"]: event["groups"] for event in groups_of(straight)}
    assert events(tmp_path / "resumed", "finished")[0]["heldout"] == events(straight, "finished")[0]["heldout"]


def groups_of(directory: Path) -> list[dict[str, Any]]:
    return events(directory, "reward_groups")


def test_run_resumed_with_more_steps_equals_the_longer_run(half: HalfRun, finished: Path, tmp_path: Path) -> None:
    resumed = trainer(tmp_path)
    resumed.checkpoints.resume(half.directory / "checkpoints/step-000002")
    resumed.run()
    one, other = (root / "checkpoints/step-000004" for root in (finished, tmp_path))
    assert tensors(one) == tensors(other)


TWO_THREADS: dict[str, Any] = {
    "sampling": {"steps": 3, "rollout_batch_size": 32},
    "algorithm": {"group_size": 4, "sde_steps": [0, 1], "granularities": [1]},
    "training": {"prompts_per_step": 4},
    "heldout": {"every": 0, "final_pairs": 0, "samples": 0},
}
"""Batches for a run with two threads that both threads share."""


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_repeated_rollout_on_two_threads_is_bit_identical(tmp_path: Path) -> None:
    straight, paused = (trainer(tmp_path / name, **TWO_THREADS) for name in ("straight", "paused"))
    prompts = straight.prompts.sample(0, 4)
    known, conditioning = (subject.model.encode(prompts) for subject in (straight, paused))
    counted: list[str] = []
    straight.model.transformer.register_forward_hook(lambda *_: counted.append(threading.current_thread().name))
    with threads(2):
        assert batch_size_per_thread(straight.model.device, straight.spec.sampling.rollout_batch_size) == 16
        expected = straight.rollout.sample(prompts, known)
        assert len(set(counted)) > 1
        call(paused, len(counted) - 2, lambda: ask(tmp_path / "paused", action="pause"))
        with pytest.raises(Paused):
            paused.rollout.sample(prompts, conditioning)
        (tmp_path / "paused" / CONTROL_FILE).unlink()
        found = paused.rollout.sample(prompts, conditioning)
    assert torch.equal(found.ends, expected.ends)
    assert expected.anchors is not None and found.anchors is not None
    assert torch.equal(found.anchors, expected.anchors)
    assert torch.equal(found.batch.samples, expected.batch.samples)
    assert torch.equal(found.batch.old_log_probs, expected.batch.old_log_probs)


@pytest.fixture
def two_threads() -> Iterator[None]:
    with threads(2):
        yield


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_paused_run_on_two_threads_ends_bit_identical(two_threads: None, tmp_path: Path) -> None:
    """Slow, because two threads in an operator wait for each other, which takes minutes on a busy machine."""
    changes = merge(TWO_THREADS, {"training": {"max_steps": 2}, "heldout": {"every": 2, "pairs": 20}})
    straight, paused = (trainer(tmp_path / name, **changes) for name in ("straight", "paused"))
    forwards: list[tuple[int, str]] = []
    straight.model.transformer.register_forward_hook(
        lambda *_: forwards.append((straight.step, straight.progress.phase))
    )
    straight.run()
    second = [number for number, at in enumerate(forwards, start=1) if at == (1, "rollout")]
    call(paused, second[len(second) // 2], lambda: ask(tmp_path / "paused", action="pause"))
    with pytest.raises(Paused):
        paused.run()
    paused.pause()
    saved = events(tmp_path / "paused", "checkpoint")[-1]
    assert saved["step"] == 1

    resumed = trainer(tmp_path / "resumed", **changes)
    resumed.checkpoints.resume(tmp_path / "paused" / saved["directory"])
    resumed.run()

    one, other = (tmp_path / name / "checkpoints/step-000002" for name in ("straight", "resumed"))
    assert tensors(one) == tensors(other)
    reported = metrics(tmp_path / "paused") + metrics(tmp_path / "resumed")
    assert sorted(set(reported)) == sorted(set(metrics(tmp_path / "straight")))


def test_requested_checkpoint_is_saved_once_after_the_step(tmp_path: Path) -> None:
    subject = small(tmp_path, training={"max_steps": 2})
    ask(tmp_path, action="checkpoint", request=3)
    subject.run()
    saved = [(event["step"], event["request"]) for event in events(tmp_path, "checkpoint")]
    assert saved == [(0, 3), (2, 3)]
    assert read_manifest(tmp_path / "checkpoints/step-000000").step == 0


def test_start_checkpoint_sets_the_policy(finished: Path, tmp_path: Path) -> None:
    subject = trainer(tmp_path, training={"max_steps": 1}, heldout={"samples": 0})
    subject.checkpoints.start_from(finished / "checkpoints/step-000004")
    subject.run()
    start = [row[1:] for row in metrics(tmp_path, "^heldout/") if row[0] == 0]
    end = [row[1:] for row in metrics(finished, "^heldout/") if row[0] == 4]
    assert start == end


def test_resuming_a_finished_run_repeats_the_summary_without_counting_twice(finished: Path, tmp_path: Path) -> None:
    subject = trainer(tmp_path)
    subject.checkpoints.resume(finished / "checkpoints/step-000004")
    subject.run()
    assert events(tmp_path, "finished")[0]["heldout"] == events(finished, "finished")[0]["heldout"]
    assert events(tmp_path, "sample") == []
    assert newest(tmp_path).items() <= newest(finished).items()
    assert len(events(tmp_path, "metrics")) == 1  # the unchanged totals


def test_resuming_a_finished_run_reports_its_progress(tmp_path: Path) -> None:
    changes = {"training": {"max_steps": 1}}
    small(tmp_path / "first", **changes).run()
    subject = small(tmp_path / "second", **changes)
    subject.checkpoints.resume(tmp_path / "first/checkpoints/step-000001")
    subject.run()
    assert events(tmp_path / "second", "progress")[-1]["step"] == 1


def test_start_checkpoint_with_another_alpha_is_rejected(finished: Path, tmp_path: Path) -> None:
    subject = trainer(tmp_path, training={"lora_alpha": 32})
    with pytest.raises(ValueError, match=r"alpha 16.0.*alpha 32.0"):
        subject.checkpoints.start_from(finished / "checkpoints/step-000004")
