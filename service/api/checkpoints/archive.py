"""A checkpoint to take away: its weights and what is known of them, as a tar file made while it is sent.

Files go from the store to the client block by block, each checked against its hash; nothing is compressed, for weights
do not shrink. The same checkpoint gives the same bytes as long as its run says the same of it.
"""

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from service.api.checkpoints.imports import WEIGHTS
from service.contracts.card import CARD_FILE, HELDOUT_FILE, Form, card
from service.contracts.catalog import Catalog
from service.contracts.jobs import MANIFEST_FILE, SPEC_FILE, CheckpointManifest
from service.db import metric_series
from service.db.artifacts import ArtifactStore, Stored
from service.db.models import Attempt, Checkpoint, Run
from service.jobs.validation import find_model

MEDIA_TYPE = "application/x-tar"
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_MOST_POINTS = 10_000


@dataclass(frozen=True)
class Archive:
    """What the tar file will hold: made files first, then stored ones."""

    name: str
    made: Mapping[str, bytes]
    stored: Mapping[str, Stored]
    time: datetime

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        sizes = [len(data) for data in self.made.values()] + [file.size for file in self.stored.values()]
        heads = sum(len(self._head(name, 0)) for name in (*self.made, *self.stored))
        return heads + sum(size + _padding(size) for size in sizes) + len(_END)

    @property
    def etag(self) -> str:
        """Changes with any name or content."""
        whole = hashlib.sha256(self.name.encode())
        for name, data in self.made.items():
            whole.update(f"\0{name}\0{hashlib.sha256(data).hexdigest()}".encode())
        for name, file in self.stored.items():
            whole.update(f"\0{name}\0{file.sha256}".encode())
        return f'"{whole.hexdigest()}"'

    def blocks(self, artifacts: ArtifactStore) -> Iterator[bytes]:
        """The file's bytes. Raises ArtifactDamaged: a file that breaks off is no whole archive."""
        for name, data in self.made.items():
            yield self._head(name, len(data)) + data + bytes(_padding(len(data)))
        for name, file in self.stored.items():
            yield self._head(name, file.size)
            yield from artifacts.stream(file)
            yield bytes(_padding(file.size))
        yield _END

    def _head(self, name: str, size: int) -> bytes:
        info = tarfile.TarInfo(f"{self.name}/{name}")
        info.size, info.mtime, info.mode = size, int(self.time.timestamp()), 0o644
        return info.tobuf(tarfile.GNU_FORMAT)


def describe(session: Session, catalog: Catalog, row: Checkpoint, training: bool) -> Archive:
    """The archive of a checkpoint that was not deleted; with `training`, also what a continuation needs."""
    whole = CheckpointManifest.model_validate(row.manifest)
    kept = tuple(file for file in whole.files if training or _to_use(file.name))
    manifest = whole.model_copy(update={"files": kept})
    heldout = _heldout(session, row)
    form: Form = "lora" if manifest.kind == "lora" else "transformer"
    made = {
        CARD_FILE: card(manifest, find_model(catalog, row.model), form, heldout).encode(),
        MANIFEST_FILE: manifest.model_dump_json(indent=1).encode(),
        SPEC_FILE: _json(manifest.spec),
        HELDOUT_FILE: _json(heldout),
        "prompts.json": _json(_prompts(session, row)),
        "curves.csv": _curves(session, row).encode(),
    }
    stored = row.stored
    sent = {file.name: stored[file.name] for file in kept}
    return Archive(f"{row.model}-step-{row.step}-{str(row.id)[-6:]}", made, sent, row.created_at)


def answer(artifacts: ArtifactStore, archive: Archive, if_none_match: str | None) -> Response:
    """The archive, or 304 for a client that has it. Raises ArtifactDamaged for a file that is not there."""
    headers = {
        "ETag": archive.etag,
        "Accept-Ranges": "none",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="{archive.name}.tar"',
    }
    if archive.etag in (if_none_match or ""):
        return Response(status_code=304, headers=headers)
    artifacts.check_whole(archive.stored.values())
    headers["Content-Length"] = str(archive.size)
    return StreamingResponse(archive.blocks(artifacts), 200, headers, MEDIA_TYPE)


def _to_use(name: str) -> bool:
    """Whether a file is of use outside, and not only for training on."""
    return name == WEIGHTS or name.startswith("transformer/")


def _padding(size: int) -> int:
    return -size % _BLOCK


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def _heldout(session: Session, row: Checkpoint) -> dict[str, Any]:
    """Held-out rewards before and after: with intervals for the run's last step, else the curves' values."""
    run = session.get(Run, row.run_id) if row.run_id is not None else None
    if run is None:
        return {}
    if run.heldout and row.step == run.max_steps:
        return run.heldout
    found = {}
    for one in metric_series.latest(session, run.id):
        at = metric_series.at(session, run.id, one.name, {0, row.step}) if one.name.startswith("heldout/") else {}
        if len(at) == 2:
            found[one.name.removeprefix("heldout/")] = {"before": at[0], "after": at[row.step]}
    return found


def _prompts(session: Session, row: Checkpoint) -> dict[str, Any]:
    """Where the prompts came from, and the hashes by which they can be known again."""
    spec = row.manifest["spec"] or {}
    attempt = session.get(Attempt, (row.run_id, row.attempt)) if row.run_id is not None else None
    provenance = (attempt.provenance or {}) if attempt is not None else {}
    return {
        "training": spec.get("prompts"),
        "heldout": spec.get("heldout", {}).get("prompts"),
        "sha256": provenance.get("prompts"),
    }


def _curves(session: Session, row: Checkpoint) -> str:
    """Every metric up to the checkpoint's step, one point a line; long ones in buckets' means."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["name", "step", "value"])
    run = session.get(Run, row.run_id) if row.run_id is not None else None
    if run is not None:
        for one in metric_series.buckets(session, run, metric_series.latest(session, run.id), 0, _MOST_POINTS):
            points = zip(one.steps, one.means, strict=True)
            writer.writerows((one.name, step, value) for step, value in points if step <= row.step)
    return text.getvalue()
