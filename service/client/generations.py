"""Generations: images on request."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from service.api.generations.schemas import GenerationSummary, GenerationView
from service.client.transport import Id, Transport
from service.contracts.status import TERMINAL

_LONGEST_WAIT = 50.0
"""Seconds that one request waits for a job's end; below the timeouts of usual proxies."""


class Generations:
    """The routes under `/generations`, and `/generate`."""

    _transport: Transport

    def generate(self, spec: Mapping[str, Any], wait: float | None = None) -> GenerationView:
        """Draw images; `spec` is the body of `POST /generate`. With `wait`, up to so many seconds for the end."""
        deadline = time.monotonic() + (wait or 0)
        generation = self._transport.read(
            GenerationView, "POST", "/generate", json=dict(spec), headers=prefer(wait or 0)
        )
        return self._generation_until(generation, deadline)

    def generation(self, id: Id) -> GenerationView:
        """A generation and its images so far."""
        return self._transport.read(GenerationView, "GET", f"/generations/{id}")

    def generations(self, *, status: Sequence[str] = ()) -> Iterator[GenerationSummary]:
        """All generations that fit, newest first, fetched page by page."""
        return self._transport.pages(GenerationSummary, "/generations", {"status": status})

    def wait_for_generation(self, id: Id, timeout: float) -> GenerationView:
        """The generation once it has ended. Raises TimeoutError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        generation = self._generation_until(self.generation(id), deadline)
        if generation.status not in TERMINAL:
            raise TimeoutError(f"generation {id} is {generation.status} after {timeout:g} s")
        return generation

    def cancel_generation(self, id: Id) -> GenerationView:
        """Ask for a generation's end."""
        return self._transport.read(GenerationView, "POST", f"/generations/{id}/cancel")

    def delete_generation(self, id: Id) -> None:
        """Delete an ended generation with its images; what rewards said of them stays."""
        self._transport.send("DELETE", f"/generations/{id}")

    def image(self, generation: Id, number: int) -> bytes:
        """One image, PNG."""
        return self.fetch_image(f"/generations/{generation}/images/{number}")

    def grid(self, generation: Id) -> bytes:
        """All images side by side, PNG."""
        return self.fetch_image(f"/generations/{generation}/grid.png")

    def fetch_image(self, path: str) -> bytes:
        """The PNG at a path that an answer named."""
        return self._transport.send("GET", path).content

    def _generation_until(self, generation: GenerationView, deadline: float) -> GenerationView:
        while generation.status not in TERMINAL and (left := deadline - time.monotonic()) > 0:
            path = f"/generations/{generation.id}"
            generation = self._transport.read(GenerationView, "GET", path, headers=prefer(left))
        return generation


def prefer(wait: float) -> dict[str, str]:
    """The header that asks for an answer within so many seconds, as far as one request waits."""
    seconds = min(wait, _LONGEST_WAIT)
    return {"Prefer": f"wait={math.ceil(seconds)}"} if seconds > 0 else {}
