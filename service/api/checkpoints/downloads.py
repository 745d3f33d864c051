"""Download checkpoints, as archives or as single files with ranges, entity tags and digests (RFC 9110, RFC 9530).

An archive is a tar file of the weights and their documentation. It is created while it is sent: files are streamed from
the store block by block, and each file is checked against its hash. The archive is not compressed, because weights
hardly compress. The same checkpoint gives the same bytes as long as the records of its run do not change.
"""

import base64
import hashlib
import json
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import Response
from fastapi.responses import StreamingResponse
from safetensors import SafetensorError
from sqlalchemy.orm import Session

from service.api.checkpoints import kohya
from service.api.checkpoints.imports import WEIGHTS, read_layers
from service.api.checkpoints.lora_file import TensorFile
from service.contracts.attempt_files import MANIFEST_FILE, SPEC_FILE, CheckpointManifest
from service.contracts.catalog import Catalog
from service.contracts.model_card import CARD_FILE, HELDOUT_FILE, Form, card
from service.db import metric_series
from service.db.artifacts import ArtifactStore, Stored
from service.db.models import Attempt, Checkpoint, Run
from service.http.content_negotiation import csv_text, is_current
from service.http.errors import Invalid, RangeNotSatisfiable, WrongState
from service.jobs.validation import find_model

FILE_TYPE, ARCHIVE_TYPE = "application/octet-stream", "application/x-tar"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_MAX_POINTS = 10_000
"""The maximum number of points of a metric in `curves.csv`."""


def file_response(artifacts: ArtifactStore, file: Stored, method: str, headers: Mapping[str, str]) -> Response:
    """Create the response to a file download. Raises ArtifactDamaged, RangeNotSatisfiable.

    A whole file is hashed while it is sent. If it is damaged, the last block is withheld, so the client sees an
    incomplete response. For a range of a large file only the file size is checked; the client must check the hash
    after assembling all parts.
    """
    etag = f'"{file.sha256}"'
    common = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": "attachment",
    }
    if is_current(etag, headers.get("if-none-match")):
        return Response(status_code=304, headers=common)
    if method == "HEAD":  # ranges do not apply
        artifacts.check_whole([file])
        return Response(None, 200, {**common, "Content-Length": str(file.size)}, FILE_TYPE)
    part = byte_range(headers.get("range"), file.size) if headers.get("if-range", etag) == etag else None
    if part is None:
        common["Content-Length"] = str(file.size)
        return StreamingResponse(artifacts.stream(file), 200, common, FILE_TYPE)
    start, length = part
    common["Content-Length"] = str(length)
    common["Content-Range"] = f"bytes {start}-{start + length - 1}/{file.size}"
    return StreamingResponse(artifacts.stream(file, start, length), 206, common, FILE_TYPE)


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the start and length of the range that a Range header requests.

    Returns None, which stands for the whole file, unless the header is a single valid byte range. Raises
    RangeNotSatisfiable if the range is outside the file.
    """
    match = _RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first == "":
        length = min(int(last), size)
        start = size - length
    else:
        if last and int(last) < int(first):
            return None
        start = int(first)
        length = (min(int(last), size - 1) if last else size - 1) - start + 1
    if length <= 0:
        detail = f"Range {header} is outside the file, which has {size} bytes"
        raise RangeNotSatisfiable(detail, headers={"Content-Range": f"bytes */{size}"})
    return start, length


@dataclass(frozen=True)
class Archive:
    """A tar file with a single directory, `name`. Its members are bytes or files in the artifact store."""

    name: str
    members: Mapping[str, bytes | Stored]
    time: datetime

    @property
    def size(self) -> int:
        """The size of the tar file in bytes."""
        total = len(_END)
        for name, content in self.members.items():
            size = len(content) if isinstance(content, bytes) else content.size
            total += len(self._header(name, 0)) + size + -size % _BLOCK
        return total

    @property
    def etag(self) -> str:
        """An entity tag computed from the names and contents of all members."""
        digest = hashlib.sha256(self.name.encode())
        for name, content in self.members.items():
            sha256 = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else content.sha256
            digest.update(f"\0{name}\0{sha256}".encode())
        return f'"{digest.hexdigest()}"'

    def check(self, artifacts: ArtifactStore) -> None:
        """Raise ArtifactDamaged unless every file exists in the store with its recorded size."""
        artifacts.check_whole(content for content in self.members.values() if isinstance(content, Stored))

    def blocks(self, artifacts: ArtifactStore) -> Iterator[bytes]:
        """Yield the bytes of the tar file.

        Raises ArtifactDamaged if a file is damaged; the archive is then incomplete.
        """
        for name, content in self.members.items():
            if isinstance(content, bytes):
                yield self._header(name, len(content)) + content + bytes(-len(content) % _BLOCK)
            else:
                yield self._header(name, content.size)
                yield from artifacts.stream(content)
                yield bytes(-content.size % _BLOCK)
        yield _END

    def _header(self, name: str, size: int) -> bytes:
        info = tarfile.TarInfo(f"{self.name}/{name}")
        info.size, info.mtime, info.mode = size, int(self.time.timestamp()), 0o644
        return info.tobuf(tarfile.GNU_FORMAT)


def archive(session: Session, catalog: Catalog, row: Checkpoint, training: bool) -> Archive:
    """Build the archive of a checkpoint whose files have not been deleted.

    If `training` is true, the archive includes the state needed to resume the training.
    """
    complete = CheckpointManifest.model_validate(row.manifest)
    files = tuple(
        file for file in complete.files if training or file.name == WEIGHTS or file.name.startswith("transformer/")
    )
    manifest = complete.model_copy(update={"files": files})
    run = session.get(Run, row.run_id) if row.run_id is not None else None
    heldout = _heldout(session, row, run)
    form: Form = "lora" if manifest.kind == "lora" else "transformer"
    stored = row.stored
    members: dict[str, bytes | Stored] = {
        CARD_FILE: card(manifest, find_model(catalog, row.model), form, heldout).encode(),
        MANIFEST_FILE: manifest.model_dump_json(indent=1).encode(),
        SPEC_FILE: _json(manifest.spec),
        HELDOUT_FILE: _json(heldout),
        "prompts.json": _json(_prompts(session, row)),
        "curves.csv": _curves(session, row, run).encode(),
        **{file.name: stored[file.name] for file in files},
    }
    return Archive(f"{row.model}-step-{row.step}-{str(row.id)[-6:]}", members, row.created_at)


def archive_response(artifacts: ArtifactStore, archive: Archive, if_none_match: str | None) -> Response:
    """Return the archive as a response, or status 304 if the client has the current version.

    Raises ArtifactDamaged if a file is missing or has the wrong size.
    """
    headers = {
        "ETag": archive.etag,
        "Accept-Ranges": "none",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="{archive.name}.tar"',
    }
    if is_current(archive.etag, if_none_match):
        return Response(status_code=304, headers=headers)
    archive.check(artifacts)
    headers["Content-Length"] = str(archive.size)
    return StreamingResponse(archive.blocks(artifacts), 200, headers, ARCHIVE_TYPE)


def kohya_response(artifacts: ArtifactStore, catalog: Catalog, row: Checkpoint) -> Response:
    """Return the LoRA of a checkpoint in kohya's format. Raises ArtifactDamaged, WrongState."""
    model, manifest = find_model(catalog, row.model), CheckpointManifest.model_validate(row.manifest)
    weights = row.stored.get(WEIGHTS)
    if weights is None or manifest.lora_alpha is None:
        raise WrongState(f"Checkpoint {row.id} is of kind {row.kind!r}; kohya's format needs a LoRA")
    if model is None:
        raise WrongState(f"The catalog does not contain {row.model!r}, the model of checkpoint {row.id}")
    with tempfile.TemporaryDirectory(prefix="g2rpo-kohya-") as directory:
        file = Path(directory) / WEIGHTS
        with file.open("wb") as output:
            output.writelines(artifacts.stream(weights))
        try:
            layers = read_layers(TensorFile(file))  # remains mapped into memory after the file was deleted
            content = kohya.content(model.family, layers, manifest.lora_alpha)
        except (SafetensorError, ValueError, Invalid) as error:
            raise WrongState(f"Checkpoint {row.id} cannot be converted: {error}") from error
    name = f"{row.model}-step-{row.step}-{str(row.id)[-6:]}.safetensors"
    headers = {"Content-Length": str(content.size), "Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(content.blocks, 200, headers, FILE_TYPE)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def _heldout(session: Session, row: Checkpoint, run: Run | None) -> dict[str, Any]:
    """Return the held-out rewards before and after training.

    For the last step of a run, they are its stored results with intervals; for other steps, they come from its metrics.
    """
    if run is None:
        return {}
    if run.heldout and row.step == run.max_steps:
        return run.heldout
    found = {}
    for metric in metric_series.latest(session, run.id):
        if metric.name.startswith("heldout/"):
            values = metric_series.at(session, run.id, metric.name, {0, row.step})
            if len(values) == 2:
                found[metric.name.removeprefix("heldout/")] = {"before": values[0], "after": values[row.step]}
    return found


def _prompts(session: Session, row: Checkpoint) -> dict[str, Any]:
    """Return the prompt sources of the training and held-out prompts, and the hashes that identify them."""
    spec = row.manifest["spec"] or {}
    attempt = session.get(Attempt, (row.run_id, row.attempt)) if row.run_id is not None else None
    provenance = (attempt.provenance or {}) if attempt is not None else {}
    return {
        "training": spec.get("prompts"),
        "heldout": spec.get("heldout", {}).get("prompts"),
        "sha256": provenance.get("prompts"),
    }


def _curves(session: Session, row: Checkpoint, run: Run | None) -> str:
    """Return all metrics up to the checkpoint's step as CSV, one point per line.

    Long metrics are divided into buckets, each represented by its mean.
    """
    rows: list[tuple[object, ...]] = [("name", "step", "value")]
    if run is not None:
        for metric in metric_series.buckets(session, run, metric_series.latest(session, run.id), 0, _MAX_POINTS):
            points = zip(metric.steps, metric.means, strict=True)
            rows += [(metric.name, step, value) for step, value in points if step <= row.step]
    return csv_text(rows)
