"""Client methods for generating images and scoring them with rewards."""

import base64
import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from service.api.generations.schemas import GenerationSummary, GenerationView
from service.api.scores.schemas import ScoreSummary, ScoreView
from service.client.transport import Id, Transport
from service.contracts.status import TERMINAL

Job = TypeVar("Job", GenerationView, ScoreView)

_MAX_WAIT_SECONDS = 50.0
"""Longest time that one request waits. It is below the timeouts of common proxies."""


class Images(Transport):
    """The routes under `/generations` and `/scores`, and the routes `/generate` and `/score`."""

    def generate(self, spec: Mapping[str, Any], wait: float | None = None) -> GenerationView:
        """Generate images. `spec` is the body of `POST /generate`.

        Returns when the job has ended, or after `wait` seconds.
        """
        return self._create(GenerationView, "/generate", dict(spec), wait)

    def generation(self, id: Id) -> GenerationView:
        """Return a generation with the images generated so far."""
        return self._read(GenerationView, "GET", f"/generations/{id}")

    def generations(self, *, status: Collection[str] = ()) -> Iterator[GenerationSummary]:
        """Iterate over all matching generations, newest first."""
        return self._pages(GenerationSummary, "/generations", {"status": list(status)})

    def wait_for_generation(self, id: Id, timeout: float) -> GenerationView:
        """Wait until a generation has ended. Raises TimeoutError after `timeout` seconds."""
        return self._wait(self.generation(id), timeout)

    def cancel_generation(self, id: Id) -> GenerationView:
        """Cancel a generation."""
        return self._read(GenerationView, "POST", f"/generations/{id}/cancel")

    def delete_generation(self, id: Id) -> None:
        """Delete a generation that has ended, and its images. The scores of the images are preserved."""
        self._send("DELETE", f"/generations/{id}")

    def image(self, generation: Id, number: int) -> bytes:
        """Fetch an image of a generation as PNG."""
        return self.fetch_image(f"/generations/{generation}/images/{number}")

    def grid(self, generation: Id) -> bytes:
        """Fetch a PNG that shows all images of a generation side by side."""
        return self.fetch_image(f"/generations/{generation}/grid.png")

    def fetch_image(self, path: str) -> bytes:
        """Fetch the PNG at a path taken from a response, such as `generation.images[0].url`."""
        return self._send("GET", path).content

    def score(
        self,
        rewards: Sequence[str],
        images: Iterable[tuple[str, Path | bytes]] | None = None,
        *,
        generation: Id | None = None,
        wait: float | None = None,
    ) -> ScoreView:
        """Score images with `rewards`: either pairs of a prompt and a PNG, JPEG or WebP, or the images of a generation.

        Returns when the job has ended, or after `wait` seconds.
        """
        body: dict[str, Any] = {"rewards": list(rewards)}
        if images is not None:
            body["images"] = [{"prompt": prompt, "image": _base64(image)} for prompt, image in images]
        if generation is not None:
            body["generation"] = str(generation)
        return self._create(ScoreView, "/score", body, wait)

    def scoring(self, id: Id) -> ScoreView:
        """Return a scoring job with the values computed so far."""
        return self._read(ScoreView, "GET", f"/scores/{id}")

    def scores(self, *, status: Collection[str] = ()) -> Iterator[ScoreSummary]:
        """Iterate over all matching scoring jobs, newest first."""
        return self._pages(ScoreSummary, "/scores", {"status": list(status)})

    def wait_for_score(self, id: Id, timeout: float) -> ScoreView:
        """Wait until a scoring job has ended. Raises TimeoutError after `timeout` seconds."""
        return self._wait(self.scoring(id), timeout)

    def cancel_score(self, id: Id) -> ScoreView:
        """Cancel a scoring job."""
        return self._read(ScoreView, "POST", f"/scores/{id}/cancel")

    def delete_score(self, id: Id) -> None:
        """Delete a scoring job that has ended, and the images uploaded for it."""
        self._send("DELETE", f"/scores/{id}")

    def _create(self, model: type[Job], path: str, body: dict[str, Any], wait: float | None) -> Job:
        deadline = time.monotonic() + (wait or 0)
        return self._poll(self._read(model, "POST", path, json=body, headers=_prefer(wait or 0)), deadline)

    def _wait(self, job: Job, timeout: float) -> Job:
        job = self._poll(job, time.monotonic() + timeout)
        if job.status not in TERMINAL:
            raise TimeoutError(f"Job {job.id} is still {job.status} after {timeout:g} s")
        return job

    def _poll(self, job: Job, deadline: float) -> Job:
        """Poll a job until it has ended or the deadline is reached, and return it."""
        resource = "generations" if isinstance(job, GenerationView) else "scores"
        while job.status not in TERMINAL and (left := deadline - time.monotonic()) > 0:
            job = self._read(type(job), "GET", f"/{resource}/{job.id}", headers=_prefer(left))
        return job


def _prefer(wait: float) -> dict[str, str]:
    """Return the header that delays a response until the job has ended, for at most `wait` seconds."""
    seconds = min(wait, _MAX_WAIT_SECONDS)
    return {"Prefer": f"wait={math.ceil(seconds)}"} if seconds > 0 else {}


def _base64(image: Path | bytes) -> str:
    return base64.b64encode(image.read_bytes() if isinstance(image, Path) else image).decode()
