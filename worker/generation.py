"""One attempt at one generation: pictures from one or several checkpoints, stored as they come."""

import contextlib
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Generator as Drawing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from service.contracts.events import Progress
from service.contracts.generations import GenerationSpec
from service.contracts.status import JobStatus
from service.db import events
from service.db.artifacts import ArtifactDamaged, StoreUnavailable
from service.db.models import Generation, GenerationImage
from service.db.session import Database
from worker import artifacts
from worker.claims import Claim, LeaseLost, held, move, wish
from worker.lease import Lease
from worker.outcome import Outcome, failed, stuck_for, too_often_lost
from worker.stats import STATS

if TYPE_CHECKING:
    from worker.inference import GeneratedImage, Generator

log = structlog.get_logger()

_FLUSH_SECONDS = 0.5
"""Pictures are recorded in batches of this length, so that quick models are not held up by the database."""

STUCK_EXIT = 70
"""Exit status of a worker whose drawing hung."""

_patiently = Retrying(
    retry=retry_if_exception_type(StoreUnavailable), wait=wait_fixed(1), stop=stop_after_delay(30), reraise=True
)
"""Calls something again while the artifact store is away."""

_generator: "Generator | None" = None


class _Stopped(Exception):
    """The generation ends before its last picture, for the reason in `outcome`."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


def generate(database: Database, claim: Claim, stopping: threading.Event) -> None:
    """See a claimed generation through. Never raises for what the request, a model or another worker did."""
    bound = log.bind(generation=str(claim.id), attempt=claim.attempt)
    try:
        with Lease(database, claim, on_lost=lambda: None) as lease, _Watch(database, claim) as watch:
            outcome = _attempt(database, claim, lease, stopping, watch)
            while True:
                try:
                    if outcome.lost and (lost := _losses(database, claim) + 1) >= database.settings.max_attempts:
                        outcome = too_often_lost(lost, None)
                    move(database, claim, outcome.status, outcome.error, lost=outcome.lost)
                    break
                except SQLAlchemyError as error:
                    bound.warning("generation.not_recorded", error=str(error).splitlines()[0])
                if lease.lost.wait(1.0):
                    raise LeaseLost("the lease could not be renewed in time")
            STATS.add(f"jobs.{outcome.status}")
            bound.info("generation.ended", status=outcome.status)
    except LeaseLost as lost:
        bound.warning("generation.lost", detail=str(lost))


class _Watch:
    """Ends this process when a drawing does not get on: a thread that hangs in the device cannot be stopped otherwise.

    Whoever started the worker starts it again.
    """

    def __init__(self, database: Database, claim: Claim) -> None:
        self._database, self._claim = database, claim
        self._timeout = database.settings.progress_timeout_seconds
        self._moved = time.monotonic()
        self._ended = threading.Event()

    def moved(self) -> None:
        """The drawing got on."""
        self._moved = time.monotonic()

    def __enter__(self) -> "_Watch":
        threading.Thread(target=self._run, name="generation-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(max(0.05, self._moved + self._timeout - time.monotonic())):
            if time.monotonic() - self._moved < self._timeout:
                continue
            log.error("generation.stuck", generation=str(self._claim.id), seconds=self._timeout)
            outcome = stuck_for(self._timeout, "")
            with contextlib.suppress(SQLAlchemyError, LeaseLost):
                move(self._database, self._claim, outcome.status, outcome.error)
            os._exit(STUCK_EXIT)


def _losses(database: Database, claim: Claim) -> int:
    with database.transaction() as session:
        return session.scalars(select(Generation.losses).where(Generation.id == claim.id)).one()


def _attempt(database: Database, claim: Claim, lease: Lease, stopping: threading.Event, watch: _Watch) -> Outcome:
    try:
        if (lost := _losses(database, claim)) >= database.settings.max_attempts:
            return too_often_lost(lost, None)
        _draw(database, claim, lease, stopping, watch)
    except _Stopped as stopped:
        return stopped.outcome
    except LeaseLost:
        raise
    except ArtifactDamaged as error:
        return failed("bad_checkpoint", str(error), "Choose another checkpoint.")
    except SQLAlchemyError as error:
        log.warning("generation.not_recorded", error=str(error).splitlines()[0])
        return Outcome(JobStatus.INTERRUPTED, lost=True)
    except StoreUnavailable as error:
        return failed("storage", str(error), "Mend G2RPO_STORAGE_URL, or its place; then ask again.")
    except (ValueError, KeyError) as error:
        return failed("bad_config", str(error.args[0] if error.args else error), "Correct the request or the catalog.")
    except MemoryError as error:
        return failed("out_of_memory", str(error), "Ask for fewer or smaller pictures.")
    except Exception as error:
        log.exception("generation.failed", generation=str(claim.id))
        if type(error).__name__ == "OutOfMemoryError":  # torch's, by name: this module must not import torch
            return failed("out_of_memory", str(error), "Ask for fewer or smaller pictures.")
        return failed("error", f"{type(error).__name__}: {error}", "The worker's log has the details.")
    return Outcome(JobStatus.SUCCEEDED)


def _draw(database: Database, claim: Claim, lease: Lease, stopping: threading.Event, watch: _Watch) -> None:
    with database.transaction() as session:
        spec = GenerationSpec.model_validate(session.get_one(Generation, claim.id).spec)
    if wish(database, claim).stop is not None:
        raise _Stopped(Outcome(JobStatus.CANCELLED))
    move(database, claim, JobStatus.RUNNING)
    checkpoints = {
        str(id_): None if id_ == "base" else _patiently(artifacts.fetch_checkpoint, database, id_)
        for id_ in spec.checkpoints
    }
    recorder = _Recorder(database, claim, spec)
    # Closed, whatever ends the loop: the generator then takes the checkpoint's weights off the model again.
    drawing = cast("Drawing[GeneratedImage]", _the_generator().generate(spec, checkpoints))
    with contextlib.closing(drawing) as images:
        for image in images:
            watch.moved()
            recorder.add(image)
            if lease.lost.is_set():
                raise LeaseLost("the lease could not be renewed in time")
            if stopping.is_set():
                raise _Stopped(Outcome(JobStatus.INTERRUPTED))
    recorder.flush()


def _the_generator() -> "Generator":
    """The process's one generator, which keeps models warm. Torch is first imported here."""
    global _generator
    if _generator is None:
        from worker.inference import Generator

        _generator = Generator()
    return _generator


class _Recorder:
    """Stores pictures and inserts their rows, some at a time."""

    def __init__(self, database: Database, claim: Claim, spec: GenerationSpec) -> None:
        self._database, self._claim, self._spec = database, claim, spec
        self._order = [str(checkpoint) for checkpoint in spec.checkpoints]
        self._pending: list[dict[str, Any]] = []
        self._done, self._flushed = 0, time.monotonic()

    def add(self, image: "GeneratedImage") -> None:
        place = self._order.index(image.checkpoint) * len(self._spec.prompts) + image.prompt_index
        number = place * self._spec.num_images + image.image_index
        key = f"generations/{self._claim.id}/{self._claim.attempt}/{number}.png"
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            file.write(image.png)
            file.flush()
            _patiently(self._database.artifacts.put_file, Path(file.name), key)
        self._pending.append(
            {
                "generation_id": self._claim.id,
                "number": number,
                "checkpoint": image.checkpoint,
                "prompt_index": image.prompt_index,
                "image_index": image.image_index,
                "seed": image.seed,
                "key": key,
                "sha256": hashlib.sha256(image.png).hexdigest(),
                "size": len(image.png),
            }
        )
        self._done += 1
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self.flush()
            if wish(self._database, self._claim).stop is not None:
                raise _Stopped(Outcome(JobStatus.CANCELLED))

    def _progress(self) -> dict[str, Any]:
        """Pictures drawn, in the words of a run's progress."""
        progress = Progress(step=self._done, max_steps=self._spec.total_images, phase="rollout")
        return progress.model_dump(mode="json", exclude={"type"})

    def flush(self) -> None:
        """Insert the rows of what was stored, with the progress made."""
        statement = insert(GenerationImage)
        changes = {name: statement.excluded[name] for name in ("key", "sha256", "size", "seed")}
        statement = statement.on_conflict_do_update(index_elements=["generation_id", "number"], set_=changes)
        with self._database.transaction() as session:
            row = held(session, self._claim)
            row.progress = self._progress()
            if self._pending:
                session.connection().execute(statement, self._pending)
            events.notify_job(session, "generation", self._claim.id)
        STATS.add("pictures", len(self._pending))
        self._pending, self._flushed = [], time.monotonic()
