"""One attempt at one generation: images from one or several checkpoints, stored as they come."""

import contextlib
import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Generator as Drawing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.dialects.postgresql import insert

from service.contracts.events import Progress
from service.contracts.generations import GenerationSpec
from service.db import events
from service.db.models import Generation, GenerationImage
from service.db.session import Database
from worker.engine.inference.model_cache import WARM
from worker.jobs import artifact_transfer
from worker.jobs.claim import Claim, held
from worker.jobs.in_process import Attempt, patiently, serve
from worker.monitoring.stats import STATS

if TYPE_CHECKING:
    from worker.engine.inference.generator import GeneratedImage, Generator

_FLUSH_SECONDS = 0.5
"""Images are recorded in batches of this length, so that quick models are not held up by the database."""

_generator: "Generator | None" = None


def generate(database: Database, claim: Claim, stopping: threading.Event) -> None:
    """See a claimed generation through. Never raises for what the request, a model or another worker did."""
    serve(database, claim, stopping, _draw)


def _draw(attempt: Attempt) -> None:
    database, claim = attempt.database, attempt.claim
    with database.transaction() as session:
        spec = GenerationSpec.model_validate(session.get_one(Generation, claim.id).spec)
    with _directory(attempt) as directory:
        checkpoints: dict[str, Path | None] = dict.fromkeys(map(str, spec.checkpoints))
        generator = _the_generator()
        with attempt.loading():
            for id_ in spec.checkpoints:
                if id_ != "base":
                    checkpoints[str(id_)] = patiently(artifact_transfer.fetch_checkpoint, database, id_, directory)
                    attempt.got_on()
            generator.load(spec.model)
        recorder = _Recorder(attempt, spec)
        # Closed, whatever ends the loop: the generator then takes the checkpoint's weights off the model again.
        drawing = cast("Drawing[GeneratedImage]", generator.generate(spec, checkpoints))
        with contextlib.closing(drawing) as images:
            for image in images:
                recorder.add(image)
                attempt.got_on()
        recorder.flush()


@contextlib.contextmanager
def _directory(attempt: Attempt) -> Iterator[Path]:
    """A place here for the attempt's checkpoints, removed at its end; that of a dead worker is left to housekeeping."""
    claim = attempt.claim
    place = attempt.database.settings.data_dir.absolute() / "work" / Generation.FOLDER / str(claim.id)
    directory = place / f"attempt-{claim.attempt}"
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # a base model needed none, or another attempt has its own there
            place.rmdir()


def _the_generator() -> "Generator":
    """The process's one generator. Torch is first imported here."""
    global _generator
    if _generator is None:
        from worker.engine.inference.generator import Generator

        _generator = Generator(warm=WARM)
    return _generator


class _Recorder:
    """Stores images and inserts their rows, some at a time."""

    def __init__(self, attempt: Attempt, spec: GenerationSpec) -> None:
        self._attempt, self._database, self._claim, self._spec = attempt, attempt.database, attempt.claim, spec
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
            patiently(self._database.artifacts.put_file, Path(file.name), key)
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
            self._attempt.check_wish()

    def _progress(self) -> dict[str, Any]:
        """Images drawn, in the words of a run's progress."""
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
        STATS.add("images", len(self._pending))
        self._pending, self._flushed = [], time.monotonic()
