"""Generation jobs: images from one or more checkpoints, stored as they are generated."""

import contextlib
import functools
import hashlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Generator as ImageStream
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Select, select
from sqlalchemy.dialects.postgresql import insert

from service.contracts.generations import GenerationSpec
from service.db.models import Generation, GenerationImage
from worker.engine.inference.model_cache import MODEL_CACHE
from worker.jobs import artifact_transfer
from worker.jobs.in_process import InProcess, InProcessJobType
from worker.monitoring.stats import STATS

if TYPE_CHECKING:
    from worker.engine.inference.generator import GeneratedImage, Generator

_FLUSH_SECONDS = 0.5
"""Interval at which images are recorded, in batches, so that the database does not slow down fast models."""


class GenerationJobType(InProcessJobType):
    """Job type for generations, which run in the worker's process."""

    model = Generation
    artifact_pattern = "*"

    def artifact_keys(self, id: uuid.UUID) -> Select[Any]:
        return select(GenerationImage.key).where(GenerationImage.generation_id == id)

    def work(self, execution: InProcess) -> None:
        """Fetch the checkpoints, load the model, and generate and record the images."""
        database, claim = execution.database, execution.claim
        with database.transaction() as session:
            spec = GenerationSpec.model_validate(session.get_one(Generation, claim.id).spec)
        with _directory(execution) as directory:
            checkpoints: dict[str, Path | None] = dict.fromkeys(map(str, spec.checkpoints))
            generator = _generator()
            with execution.loading():
                for id_ in spec.checkpoints:
                    if id_ != "base":
                        fetch = artifact_transfer.fetch_checkpoint
                        checkpoints[str(id_)] = execution.attempt.retry(fetch, database, id_, directory)
                        execution.heartbeat()
                generator.load(spec.model)
            recorder = _Recorder(execution, spec)
            # Closing the generator removes the checkpoint's weights from the model, however the loop ends.
            stream = cast("ImageStream[GeneratedImage]", generator.generate(spec, checkpoints))
            with contextlib.closing(stream) as images:
                for image in images:
                    recorder.add(image)
                    execution.heartbeat()
            recorder.flush()


@contextlib.contextmanager
def _directory(execution: InProcess) -> Iterator[Path]:
    """Provide a local directory for the attempt's checkpoints, and remove it afterwards.

    Housekeeping removes the directories of lost workers.
    """
    claim = execution.claim
    job_directory = execution.database.settings.data_dir.absolute() / "work" / Generation.FOLDER / str(claim.id)
    directory = job_directory / f"attempt-{claim.attempt}"
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # the directory does not exist, or contains another attempt
            job_directory.rmdir()


@functools.cache
def _generator() -> "Generator":
    """Return the generator of this process. torch is imported here for the first time."""
    from worker.engine.inference.generator import Generator

    return Generator(cache=MODEL_CACHE)


class _Recorder:
    """Stores images and inserts their rows in batches."""

    def __init__(self, execution: InProcess, spec: GenerationSpec) -> None:
        self._execution, self._claim, self._spec = execution, execution.claim, spec
        self._order = [str(checkpoint) for checkpoint in spec.checkpoints]
        self._pending: list[dict[str, Any]] = []
        self._done, self._flushed_at = 0, time.monotonic()

    def add(self, image: "GeneratedImage") -> None:
        group = self._order.index(image.checkpoint) * len(self._spec.prompts) + image.prompt_index
        number = group * self._spec.num_images + image.image_index
        key = f"{Generation.FOLDER}/{self._claim.id}/{self._claim.attempt}/{number}.png"
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            file.write(image.png)
            file.flush()
            self._execution.attempt.retry(self._execution.database.artifacts.put_file, Path(file.name), key)
        self._pending.append(
            {
                "generation_id": self._claim.id,
                "number": number,
                **{name: getattr(image, name) for name in ("checkpoint", "prompt_index", "image_index", "seed")},
                "key": key,
                "sha256": hashlib.sha256(image.png).hexdigest(),
                "size": len(image.png),
            }
        )
        self._done += 1
        if time.monotonic() - self._flushed_at >= _FLUSH_SECONDS:
            self.flush()
            self._execution.check_cancelled()

    def flush(self) -> None:
        """Insert the rows of the stored images and record the progress."""
        statement = insert(GenerationImage)
        changes = {name: statement.excluded[name] for name in ("key", "sha256", "size", "seed")}
        statement = statement.on_conflict_do_update(index_elements=["generation_id", "number"], set_=changes)
        with self._execution.database.transaction() as session:
            self._execution.record_progress(session, self._done, self._spec.total_images, "rollout")
            if self._pending:
                session.connection().execute(statement, self._pending)
        STATS.add("images", len(self._pending))
        self._pending, self._flushed_at = [], time.monotonic()
