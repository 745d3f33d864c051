"""Scores: rewards of images."""

import base64
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from service.api.scores.schemas import ScoreSummary, ScoreView
from service.client.generations import prefer
from service.client.transport import Id, Transport
from service.contracts.status import TERMINAL


class Scores:
    """The routes under `/scores`, and `/score`."""

    _transport: Transport

    def score(
        self,
        rewards: Sequence[str],
        images: Iterable[tuple[str, Path | bytes]] | None = None,
        *,
        generation: Id | None = None,
        wait: float | None = None,
    ) -> ScoreView:
        """Have `rewards` score images, each a prompt and a file (PNG, JPEG, WebP), or those of a generation.

        With `wait`, up to so many seconds for the end.
        """
        deadline = time.monotonic() + (wait or 0)
        body: dict[str, Any] = {"rewards": list(rewards)}
        if images is not None:
            body["images"] = [{"prompt": prompt, "image": _in_base64(image)} for prompt, image in images]
        if generation is not None:
            body["generation"] = str(generation)
        made = self._transport.read(ScoreView, "POST", "/score", json=body, headers=prefer(wait or 0))
        return self._score_until(made, deadline)

    def scoring(self, id: Id) -> ScoreView:
        """A scoring and its values so far."""
        return self._transport.read(ScoreView, "GET", f"/scores/{id}")

    def scores(self, *, status: Sequence[str] = ()) -> Iterator[ScoreSummary]:
        """All scorings that fit, newest first, fetched page by page."""
        return self._transport.pages(ScoreSummary, "/scores", {"status": status})

    def wait_for_score(self, id: Id, timeout: float) -> ScoreView:
        """The scoring once it has ended. Raises TimeoutError after `timeout` seconds."""
        found = self._score_until(self.scoring(id), time.monotonic() + timeout)
        if found.status not in TERMINAL:
            raise TimeoutError(f"score {id} is {found.status} after {timeout:g} s")
        return found

    def cancel_score(self, id: Id) -> ScoreView:
        """Ask for a scoring's end."""
        return self._transport.read(ScoreView, "POST", f"/scores/{id}/cancel")

    def delete_score(self, id: Id) -> None:
        """Delete an ended scoring with the images that were sent for it."""
        self._transport.send("DELETE", f"/scores/{id}")

    def _score_until(self, found: ScoreView, deadline: float) -> ScoreView:
        while found.status not in TERMINAL and (left := deadline - time.monotonic()) > 0:
            found = self._transport.read(ScoreView, "GET", f"/scores/{found.id}", headers=prefer(left))
        return found


def _in_base64(image: Path | bytes) -> str:
    return base64.b64encode(image.read_bytes() if isinstance(image, Path) else image).decode()
