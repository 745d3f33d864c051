"""The artifact store on fsspec: pictures and checkpoints, by keys that this service makes and no client ever names.

Workers put, the API reads. A key is a relative path, such as `runs/<id>/1/checkpoints/20`; rows hold keys, so a store
can be moved. Object stores have no rename: a directory counts as stored only once its manifest, written last, is there.
"""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from fsspec.core import url_to_fs

from service.contracts.jobs import MANIFEST_FILE

_BLOCK = 1 << 20


class ArtifactDamaged(Exception):
    """A stored file is missing, or is not what its row says."""


@dataclass(frozen=True)
class Stored:
    """A file that is in the store."""

    key: str
    sha256: str
    size: int


class ArtifactStore:
    """A place for files, named by an fsspec URL such as `file:///var/lib/g2rpo` or `s3://bucket/prefix`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = url_to_fs(url, auto_mkdir=True) if url.startswith("file://") else url_to_fs(url)

    def put_file(self, source: Path, key: str) -> Stored:
        """Store one file under `key`, replacing what is there; its hash is of the bytes that were sent."""
        digest, size = hashlib.sha256(), 0
        with source.open("rb") as reading, self._fs.open(self._path(key), "wb") as writing:
            while block := reading.read(_BLOCK):
                digest.update(block)
                size += len(block)
                writing.write(block)
        return Stored(key, digest.hexdigest(), size)

    def put_directory(self, source: Path, key: str, last: str = MANIFEST_FILE) -> dict[str, Stored]:
        """Store every file of a directory, `last` after all others; the answer is by relative name."""
        names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
        if last not in names:
            raise FileNotFoundError(f"{source} has no {last}: it is not complete")
        names.remove(last)
        return {name: self.put_file(source / name, f"{key}/{name}") for name in (*names, last)}

    def get_directory(self, key: str, names: list[str], target: Path) -> None:
        """Copy the named files of a stored directory into `target`."""
        for name in names:
            place = target / _safe(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            with self.open(f"{key}/{name}") as reading, place.open("wb") as writing:
                shutil.copyfileobj(reading, writing, _BLOCK)

    def open(self, key: str) -> BinaryIO:
        """Open a stored file for reading; it can be seeked."""
        try:
            return cast(BinaryIO, self._fs.open(self._path(key), "rb"))
        except FileNotFoundError as missing:
            raise ArtifactDamaged(f"{key} is not in the artifact store") from missing

    def read(self, key: str, sha256: str) -> bytes:
        """All bytes of a stored file, checked against the hash in its row."""
        with self.open(key) as reading:
            data = reading.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtifactDamaged(f"{key} in the artifact store does not have the hash that was recorded for it")
        return data

    def stream(self, key: str, start: int, size: int, sha256: str | None = None) -> Iterator[bytes]:
        """`size` bytes from `start` on, in blocks. The file is opened at once: a missing one is found before the first.

        With `sha256`, the hash of what is asked, the last block is given only if the hash is right. Raises
        ArtifactDamaged.
        """
        reading = self.open(key)
        reading.seek(start)
        return self._blocks(reading, key, size, sha256)

    def _blocks(self, reading: BinaryIO, key: str, size: int, sha256: str | None) -> Iterator[bytes]:
        digest, held = hashlib.sha256(), b""
        with reading:
            while size > 0 and (block := reading.read(min(_BLOCK, size))):
                size -= len(block)
                digest.update(block)
                if held:
                    yield held
                held = block
        if size > 0 or (sha256 is not None and digest.hexdigest() != sha256):
            raise ArtifactDamaged(f"{key} in the artifact store is not what was recorded for it")
        if held:
            yield held

    def exists(self, key: str) -> bool:
        """Whether there is a file under `key`."""
        return bool(self._fs.isfile(self._path(key)))

    def delete(self, prefix: str) -> None:
        """Remove everything under `prefix`; nothing there is no error."""
        path = self._path(prefix)
        if self._fs.exists(path):
            self._fs.rm(path, recursive=True)

    def check(self) -> None:
        """Raise OSError, or what the store raises, unless a file can be written, read and removed."""
        probe = "probes/readyz"
        with self._fs.open(self._path(probe), "wb") as writing:
            writing.write(b"ready")
        with self._fs.open(self._path(probe), "rb") as reading:
            if reading.read() != b"ready":
                raise OSError(f"{self.url} does not give back what was written")

    def _path(self, key: str) -> str:
        return f"{self._root}/{_safe(key)}"


def _safe(key: str) -> str:
    path = PurePosixPath(key)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in key or "\x00" in key:
        raise ValueError(f"{key!r} is not a key of the artifact store")
    return path.as_posix()
