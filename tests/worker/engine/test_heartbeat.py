"""Heartbeats during loading: events in the engine's programs, and a thread in the worker.

Models in these tests load until three heartbeats were received, so they would never end without heartbeats.
"""

import json
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import text

from service.contracts.catalog import ModelEntry, RewardEntry
from service.contracts.generations import GenerationSpec
from service.db.artifacts import ArtifactDamaged
from service.db.models import Generation, Score
from service.db.session import Database
from tests.worker.engine.evaluation.setting import job
from tests.worker.engine.training.miniature import MINIATURE, events
from worker.engine import models, rewards
from worker.engine.heartbeat import periodic_heartbeat
from worker.engine.inference.model_cache import ModelCache
from worker.entrypoints import evaluate, train
from worker.jobs import generation, scoring
from worker.jobs.attempt import Attempt, AttemptEnded
from worker.jobs.claim import claim_next
from worker.jobs.generation import GenerationJobType
from worker.jobs.in_process import InProcess, InProcessJobType
from worker.jobs.registry import JOB_TYPES
from worker.jobs.scoring import ScoreJobType

SOON = 0.001
Eventually = Callable[[Callable[[], object]], None]


class Heard:
    """A counter of heartbeats."""

    def __init__(self) -> None:
        self._signs = threading.Semaphore(0)

    def __call__(self) -> None:
        self._signs.release()

    def three(self) -> bool:
        return all(self._signs.acquire(timeout=60) for _ in range(3))


def repeating() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


class TestRepeated:
    def test_signals_are_sent_only_within_the_context(self) -> None:
        heard = Heard()
        with periodic_heartbeat(heard, SOON):
            assert heard.three()
        assert not repeating()

    def test_signals_end_when_the_work_raises(self) -> None:
        with pytest.raises(ValueError), periodic_heartbeat(lambda: None, SOON):
            raise ValueError
        assert not repeating()

    def test_signals_of_hanging_work_end(self, eventually: Eventually) -> None:
        heard = Heard()
        with periodic_heartbeat(heard, SOON, at_most=0.05):
            eventually(lambda: not repeating())

    def test_signals_resume_after_a_full_disk(self) -> None:
        heard, full = Heard(), iter([True, True])

        def write() -> None:
            if next(full, False):
                raise OSError(28, "No space left on device")
            heard()

        with periodic_heartbeat(write, SOON):
            assert heard.three()


class Waits(rewards.Reward):
    """Load until a heartbeat was received, then fail because of a missing file."""

    heard: Callable[[], object]

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Waits":
        assert cls.heard()
        raise ValueError("not there after all")

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        raise NotImplementedError


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Makes the reward `shapes_verifier` load until the given condition holds."""

    def wait_for(condition: Callable[[], object]) -> None:
        monkeypatch.setattr(
            "worker.engine.rewards.shapes_verifier.ShapesVerifierReward",
            type("Waiting", (Waits,), {"heard": condition}),
        )

    return wait_for


class TestPrograms:
    @pytest.fixture
    def last_words(self, tmp_path: Path, waiting: Any, eventually: Eventually) -> Callable[..., tuple[list[Any], Any]]:
        """The output of a program before it failed, and its failure."""
        out = tmp_path / "out"

        def heard() -> bool:
            eventually(lambda: (out / "events.jsonl").read_text().count("\n") > 3)
            return True

        def run(program: Callable[..., int], spec: str) -> tuple[list[Any], Any]:
            waiting(heard)
            (tmp_path / "spec.json").write_text(spec)
            arguments = [str(tmp_path / "spec.json"), "--out", str(out), "--device", "cpu"]
            assert program(arguments, progress_seconds=SOON) == 1
            *before, last = events(out, "progress", "failed", "started")
            return before, last

        return run

    def test_loading_training_sends_repeated_signals(self, last_words: Any) -> None:
        before, last = last_words(train.main, json.dumps({**MINIATURE, "rewards": [{"name": "shapes_verifier"}]}))
        assert {(event["type"], event["phase"], event["step"]) for event in before} == {("progress", "loading", 0)}
        assert (last["type"], last["detail"]) == ("failed", "not there after all")

    def test_loading_evaluation_sends_repeated_signals(self, last_words: Any) -> None:
        before, last = last_words(evaluate.main, job(None, rewards=["shapes_verifier"]).model_dump_json())
        assert {(event["type"], event["phase"], event["max_steps"]) for event in before} == {("progress", "loading", 6)}
        assert (last["type"], last["detail"]) == ("failed", "not there after all")


class TestServing:
    @pytest.fixture
    def heard(self) -> Heard:
        return Heard()

    @pytest.fixture
    def attempt(self, database: Database, heard: Heard) -> Callable[[Any], InProcess]:
        """An attempt at a row's job whose heartbeats are sent to `heard`."""

        class Listening(InProcess):
            def touch(self) -> None:
                heard()

        def begin(row: Any) -> InProcess:
            with database.transaction() as session:
                session.add(row)
            job_type = JOB_TYPES[row.KIND]
            assert isinstance(job_type, InProcessJobType)
            claim = claim_next(database, job_type, "worker:1")
            assert claim is not None
            begun = Listening(Attempt(database, claim, threading.Event()), job_type, SOON)
            begun.start()
            return begun

        return begin

    def test_loading_model_sends_signals(
        self, attempt: Callable[[Any], InProcess], heard: Heard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Family:
            @classmethod
            def load(cls, entry: ModelEntry, device: torch.device, dtype: torch.dtype) -> None:
                assert heard.three()
                raise ValueError("not there after all")

        from worker.engine.inference.generator import Generator

        monkeypatch.setitem(models.FAMILIES, "flux", Family)
        monkeypatch.setattr(generation, "_generator", lambda: Generator("cpu", ModelCache()))
        spec = GenerationSpec(prompts=("a small red circle on white",)).model_dump(mode="json")
        with pytest.raises(ValueError, match="not there after all"):
            GenerationJobType().work(attempt(Generation(requested={}, spec=spec, spec_version=1)))

    def test_fetching_checkpoint_sends_signals(
        self, attempt: Callable[[Any], InProcess], heard: Heard, database: Database
    ) -> None:
        missing = uuid.uuid4()
        spec = GenerationSpec(prompts=("a small red circle on white",), checkpoints=(missing,)).model_dump(mode="json")
        begun = attempt(Generation(requested={}, spec=spec, spec_version=1))
        with ThreadPoolExecutor(1) as worker:
            with database.engine.begin() as blocking:
                blocking.execute(text("LOCK TABLE checkpoints IN ACCESS EXCLUSIVE MODE"))
                drawn = worker.submit(GenerationJobType().work, begun)
                assert heard.three()
            with pytest.raises(ArtifactDamaged, match=str(missing)):
                drawn.result()

    def test_loading_reward_sends_signals(
        self, attempt: Callable[[Any], InProcess], heard: Heard, waiting: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from worker.engine.inference.image_scorer import ImageScorer

        in_time: list[bool] = []
        waiting(lambda: in_time.append(heard.three()))  # scoring handles the exceptions of rewards
        monkeypatch.setattr(scoring, "_scorer", lambda: ImageScorer("cpu", ModelCache()))
        spec = {"rewards": ["shapes_verifier"], "generation": None}
        ScoreJobType().work(attempt(Score(id=uuid.uuid4(), requested={}, spec=spec, spec_version=1, total_images=0)))
        assert in_time == [True]

    def test_stop_request_during_loading_is_obeyed(self, attempt: Callable[[Any], InProcess]) -> None:
        spec = GenerationSpec(prompts=("a small red circle on white",)).model_dump(mode="json")
        begun = attempt(Generation(requested={}, spec=spec, spec_version=1))
        with pytest.raises(AttemptEnded), begun.loading():
            begun.attempt.stopping.set()
