"""Users of the service during faults: they train, pause, resume, cancel, generate, score, evaluate and delete."""

import os
import random
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.client import ApiError, Client
from service.contracts.status import INACTIVE, TERMINAL

STEPS, LONGER = 8, 10
SEEDS = (11, 12)
SPEC: dict[str, Any] = {
    "preset": "shapes",
    "sampling": {"steps": 4},
    "algorithm": {"granularities": [1, 2], "sde_steps": [0, 1], "group_size": 4},
    "training": {"max_steps": STEPS, "prompts_per_step": 4, "lora_rank": 4},
    "heldout": {"every": 2, "pairs": 16, "final_pairs": 16, "samples": 1},
    "checkpoints": {"every": 2},
}
DRAWING: dict[str, Any] = {"prompts": ["a red circle", "a blue square"], "num_images": 64}
REWARDS = ("clip_score", "shapes_verifier")
EVALUATING: dict[str, Any] = {"limit": 20, "num_images": 4, "steps": 4, "rewards": ["clip_score_2"]}

_LAST_WORDS_SECONDS = 30.0
_EVERY_SECONDS = 0.25


@dataclass
class Job:
    """An accepted job, its story, and its allowed final statuses."""

    kind: str
    id: uuid.UUID
    story: str
    ends: Collection[str] = ("succeeded",)
    deleted: bool = False


class Broken(Exception):
    """The service violated an invariant."""


@dataclass
class Users:
    """Concurrent users, each of which runs stories until stopped."""

    url: str
    seed: int
    at_once: int = 4
    """Number of training users; another user generates and scores, and one evaluates."""
    jobs: list[Job] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Descriptions of violations."""
    finished: list[str] = field(default_factory=list)
    """Ids of final checkpoints for starting runs and generating."""
    story_counts: dict[str, int] = field(default_factory=dict)
    """Number of completed stories by name."""
    stopping: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    """Set when users no longer wait for jobs, whose duration is only bounded without faults."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._told_so_far = 0
        self._threads = [
            threading.Thread(target=self._live, args=(stories,), name=f"user-{number}", daemon=True)
            for number, stories in enumerate([TRAINING] * self.at_once + [DRAWINGS, EVALUATIONS])
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """Let users finish their current stories, with a timeout in seconds."""
        self.stopping.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.over.set()
        for thread in self._threads:
            thread.join(_LAST_WORDS_SECONDS)
        left = [thread.name for thread in self._threads if thread.is_alive()]
        if left:
            self.broken.append(f"{left} did not end within {seconds:g} s after the faults")

    def _live(self, stories: Mapping[str, "Callable[[_Story], None]"]) -> None:
        deck: list[str] = []
        while not self.stopping.is_set():
            number, name = self._next_of(stories, deck)
            label = f"{number}:{name}"
            story = _Story(self, random.Random(f"{self.seed}:{label}"), label)
            try:
                with Client(self.url, timeout=15.0, patience=300.0) as client:
                    story.client = client
                    stories[name](story)
                with self._lock:
                    self.story_counts[name] = self.story_counts.get(name, 0) + 1
            except (Broken, ApiError, TimeoutError) as error:
                self.broken.append(f"story {label}: {type(error).__name__}: {error}")
            except Exception:
                self.broken.append(f"story {label}: {traceback.format_exc()}")

    def _next_of(self, stories: Mapping[str, object], deck: list[str]) -> tuple[int, str]:
        """The next story in random order, shuffled again after the last one."""
        with self._lock:
            self._told_so_far += 1
            if not deck:
                deck += sorted(stories)
                random.Random(f"{self.seed}:deck:{self._told_so_far}").shuffle(deck)
            return self._told_so_far, deck.pop()


@dataclass
class _Story:
    users: Users
    rng: random.Random
    label: str
    client: Client = None  # type: ignore[assignment]

    def submit(self, **changed: Any) -> Job:
        training = {**SPEC["training"], "seed": self.rng.choice(SEEDS)}
        request = {**SPEC, "training": training, "name": self.label, "labels": {"story": self.label}, **changed}
        return self._accepted("run", self.client.create_run(request).id)

    def draw(self, checkpoints: list[str]) -> Job:
        request = {**DRAWING, "checkpoints": checkpoints, "seed": self.rng.choice(SEEDS)}
        return self._accepted("generation", self.client.generate(request).id)

    def score(self, generation: Job) -> Job:
        return self._accepted("score", self.client.score(REWARDS, generation=generation.id).id)

    def evaluate(self) -> Job:
        request = {**EVALUATING, "name": self.label, "seed": self.rng.choice(SEEDS)}
        return self._accepted("evaluation", self.client.evaluate(request).id)

    def _accepted(self, kind: str, id: uuid.UUID) -> Job:
        job = Job(kind, id, self.label)
        self.users.jobs.append(job)
        return job

    def wait(self, job: Job, states: Collection[str]) -> str:
        """Wait until the job has one of the statuses, and return it."""
        reads: dict[str, Callable[[Any], Any]] = {
            "run": self.client.run,
            "generation": self.client.generation,
            "score": self.client.scoring,
            "evaluation": self.client.evaluation,
        }
        while (status := reads[job.kind](job.id).status) not in states:
            if self.users.over.is_set():
                raise TimeoutError(f"{job.kind} {job.id} is still {status} long after the faults")
            time.sleep(_EVERY_SECONDS)
        return str(status)

    def some_time(self, job: Job) -> None:
        """Wait for a random time: in the queue, while the job loads, or while it runs."""
        if self.rng.random() < 0.6:
            self.wait(job, {"running", *INACTIVE})
        time.sleep(self.rng.uniform(0, 4))

    def end(self, job: Job) -> str:
        status = self.wait(job, TERMINAL)
        if status not in job.ends:
            raise Broken(f"{job.kind} {job.id} ended as {status}, not as {' or '.join(job.ends)}")
        return status

    def newest(self, job: Job) -> Any:
        return next(iter(self.client.checkpoints(job.id)), None)

    def refused(self, code: str, do: Callable[[], object]) -> None:
        """Check that `do` is rejected with the error code."""
        try:
            do()
        except ApiError as error:
            if error.code != code:
                raise
        else:
            raise Broken(f"what must be refused as {code} was done")


def _plain(story: _Story) -> None:
    job = story.submit()
    story.end(job)
    story.users.finished.append(str(story.newest(job).id))


def _shares(story: _Story) -> None:
    """A run of several processes if the machine has enough cores."""
    story.end(story.submit(resources={"processes_per_node": min(2, len(os.sched_getaffinity(0)))}))


def _pauses(story: _Story) -> None:
    job = story.submit()
    for _ in range(story.rng.choice((1, 1, 2))):
        story.some_time(job)
        try:
            story.client.pause(job.id)
        except ApiError as error:
            if error.code != "wrong_state":
                raise
            break  # the job has ended in the meantime
        if story.wait(job, INACTIVE) == "paused":
            if (newest := story.newest(job)) is not None:
                story.refused("in_use", lambda newest=newest: story.client.delete_checkpoint(newest.id))
            story.client.resume(job.id)
    story.end(job)


def _cancels(story: _Story) -> None:
    job = story.submit()
    job.ends = ("cancelled", "succeeded")
    story.some_time(job)
    story.client.cancel(job.id)
    story.end(job)


def _changes_their_mind(story: _Story) -> None:
    job = story.submit()
    job.ends = ("cancelled", "succeeded")
    story.some_time(job)
    story.client.cancel(job.id)
    if story.end(job) == "cancelled" and story.newest(job) is not None:
        story.client.resume(job.id)
        job.ends = ("succeeded",)
        story.end(job)


def _saves(story: _Story) -> None:
    job = story.submit(checkpoints={"every": 0})
    for _ in range(2):
        story.wait(job, {"running", *INACTIVE})
        try:
            story.client.save(job.id)
        except ApiError as error:
            if error.code != "wrong_state":
                raise
        time.sleep(story.rng.uniform(0, 2))
    story.end(job)


def _continues(story: _Story) -> None:
    job = story.submit(checkpoints={"every": 2, "keep": 2})
    story.end(job)
    story.client.resume(job.id, LONGER)
    story.end(job)


def _deletes(story: _Story) -> None:
    job = story.submit()
    if story.rng.random() < 0.5:
        job.ends = ("cancelled", "succeeded")
        story.some_time(job)
        story.client.cancel(job.id)
    story.end(job)
    job.deleted = True
    try:
        story.client.delete_run(job.id)
    except ApiError as error:
        if error.status != 404:  # the response to the first attempt was lost
            raise
    story.refused("not_found", lambda: story.client.run(job.id))


def _starts_from(story: _Story) -> None:
    if not story.users.finished:
        return
    start = story.rng.choice(story.users.finished)
    job = story.submit(start_from=start)
    if story.client.run(job.id).status not in TERMINAL:
        story.refused("in_use", lambda: story.client.delete_checkpoint(start))
    story.end(job)


def _draws(story: _Story) -> None:
    for _ in range(3):
        story.end(story.draw(["base", *story.users.finished[-1:]]))
        time.sleep(story.rng.uniform(0, 5))


def _draws_and_cancels(story: _Story) -> None:
    job = story.draw(["base"])
    job.ends = ("cancelled", "succeeded")
    time.sleep(story.rng.uniform(0, 2))
    story.client.cancel_generation(job.id)
    story.end(job)


def _scores(story: _Story) -> None:
    images = story.draw(["base"])
    story.end(images)
    cancelled, scored = story.score(images), story.score(images)
    cancelled.ends = ("cancelled", "succeeded")
    time.sleep(story.rng.uniform(0, 2))
    story.client.cancel_score(cancelled.id)
    story.end(cancelled)
    story.end(scored)


def _evaluates(story: _Story) -> None:
    story.end(story.evaluate())


def _evaluates_in_two_parts(story: _Story) -> None:
    job = story.evaluate()
    job.ends = ("cancelled", "succeeded")
    story.some_time(job)
    story.client.cancel_evaluation(job.id)
    if story.end(job) == "cancelled":
        story.client.resume_evaluation(job.id)
        job.ends = ("succeeded",)
        story.end(job)


TRAINING: dict[str, Callable[[_Story], None]] = {
    "plain": _plain,
    "shares": _shares,
    "pauses": _pauses,
    "cancels": _cancels,
    "changes their mind": _changes_their_mind,
    "saves": _saves,
    "continues": _continues,
    "deletes": _deletes,
    "starts from": _starts_from,
}
DRAWINGS: dict[str, Callable[[_Story], None]] = {
    "draws": _draws,
    "draws and cancels": _draws_and_cancels,
    "scores": _scores,
}
EVALUATIONS: dict[str, Callable[[_Story], None]] = {
    "evaluates": _evaluates,
    "evaluates in two parts": _evaluates_in_two_parts,
}
