"""The artifact store: images and checkpoints, by keys that this service makes and no client ever names.

Workers put, the API reads. A key is a relative path, such as `runs/<id>/1/checkpoints/20`; rows hold keys, so a store
can be moved. A file is there whole or not at all; a directory counts as stored once its manifest, written last, is
there.
"""

import contextlib
import errno
import hashlib
import io
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from service.contracts.jobs import MANIFEST_FILE
from service.db.storage_backends import BLOCK, WrongHash, place

__all__ = ["BLOCK", "ArtifactDamaged", "ArtifactStore", "StoreUnavailable", "Stored", "WrongHash"]

_NOT_IN_A_KEY = frozenset('\\\x00*?[]{}"<>|\n\r')
"""Characters that some store takes for a pattern, a version or the end of a name."""


class ArtifactDamaged(Exception):
    """A stored file is missing, or is not what its row says."""


class StoreUnavailable(OSError):
    """The store cannot be reached, or does not do what it is asked: nothing is known of the file. It may pass."""

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True)
class Stored:
    """A file that is in the store."""

    key: str
    sha256: str
    size: int


class ArtifactStore:
    """A place for files, named by an fsspec URL such as `file:///var/lib/g2rpo` or `s3://bucket/prefix`.

    Threads share it, and it outlives a fork. An S3 store takes credentials, region and endpoint from the environment
    variables that AWS's own tools read. Every method raises StoreUnavailable while the store cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._place = place(url)

    def put_file(self, source: Path, key: str, sha256: str | None = None) -> Stored:
        """Store one file under `key`, replacing what is there; nothing is stored of one whose hash is not `sha256`.

        Raises WrongHash, and FileNotFoundError when there is no `source`.
        """
        safe = _safe(key)
        with self._told(f"{key} cannot be stored", source):
            return Stored(key, *self._place.put(source, safe, sha256))

    def put_directory(self, source: Path, key: str, last: str = MANIFEST_FILE) -> dict[str, Stored]:
        """Store every file of a directory, `last` after all others; the answer is by relative name."""
        names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
        if last not in names:
            raise FileNotFoundError(f"{source} has no {last}: it is not complete")
        names.remove(last)
        return {name: self.put_file(source / name, f"{key}/{name}") for name in (*names, last)}

    def get_directory(self, key: str, names: list[str], target: Path) -> None:
        """Copy the named files of a stored directory into `target`. Raises ArtifactDamaged for a missing one."""
        for name in names:
            local = target / _safe(name)
            local.parent.mkdir(parents=True, exist_ok=True)
            safe = _safe(f"{key}/{name}")
            with self._told(f"{safe} cannot be fetched"):
                self._place.fetch(safe, local)

    def read(self, key: str, sha256: str) -> bytes:
        """All bytes of a stored file, checked against the hash in its row. Raises ArtifactDamaged."""
        safe = _safe(key)
        with self._told(f"{key} cannot be read"), self._place.open(safe) as reading:
            data = reading.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtifactDamaged(f"{key} in the artifact store does not have the hash that was recorded for it")
        return data

    def check_size(self, stored: Stored) -> None:
        """Raise ArtifactDamaged unless there is a file of that length."""
        safe = _safe(stored.key)
        with self._told(f"{stored.key} cannot be read"):
            found = self._place.size(safe)
        _compare_size(stored, found)

    def check_whole(self, files: Iterable[Stored]) -> None:
        """Raise ArtifactDamaged unless there is every one of the files, in its length."""
        for file in files:
            self.check_size(file)

    def stream(self, stored: Stored, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """`length` bytes from `start` on, all by default, in blocks. Raises ArtifactDamaged.

        A file that is missing or has another length is found before the first block; so is any damage to a file of no
        more than BLOCK bytes. The last block of a longer one, when it is read whole, is given only if the hash is
        right. Of a part of a longer one the hash cannot be checked.
        """
        length = stored.size - start if length is None else length
        if stored.size <= BLOCK:
            return iter([self.read(stored.key, stored.sha256)[start : start + length]])
        safe = _safe(stored.key)
        with self._told(f"{stored.key} cannot be read"):
            reading = self._place.open(safe)
            _compare_size(stored, reading.seek(0, io.SEEK_END))
            reading.seek(start)
        return self._blocks(reading, stored, length)

    def _blocks(self, reading: BinaryIO, stored: Stored, length: int) -> Iterator[bytes]:
        digest, left, held = hashlib.sha256(), length, b""
        with reading:
            while left > 0:
                with self._told(f"{stored.key} cannot be read"):
                    block = reading.read(min(BLOCK, left))
                if not block:
                    break
                left -= len(block)
                digest.update(block)
                if held:
                    yield held
                held = block
        if left > 0 or (length == stored.size and digest.hexdigest() != stored.sha256):
            raise ArtifactDamaged(f"{stored.key} in the artifact store is not what was recorded for it")
        yield held

    def exists(self, key: str) -> bool:
        """Whether there is a file under `key`."""
        safe = _safe(key)
        with self._told(f"{key} cannot be looked for"):
            return self._place.exists(safe)

    def names(self, prefix: str) -> Iterator[str]:
        """What lies directly under `prefix`, such as the ids under `runs`; nothing there is no error."""
        safe = _safe(prefix)
        with self._told(f"{prefix} cannot be listed"):
            return iter(self._place.names(safe))

    def delete(self, prefix: str) -> None:
        """Remove everything under `prefix`; nothing there is no error."""
        safe = _safe(prefix)
        with self._told(f"{prefix} cannot be deleted"):
            self._place.delete(safe)

    def free_bytes(self) -> int | None:
        """Bytes that can still be stored; None where the store has no such limit or does not tell."""
        with self._told("the room left cannot be told"):
            return self._place.free_bytes()

    def check(self) -> None:
        """Raise StoreUnavailable unless a file can be written, read and removed."""
        probe = f"probes/{uuid.uuid4()}"
        with self._told("it fails a trial"):
            self._place.put_bytes(b"ready", probe)
            try:
                with self._place.open(probe) as reading:
                    if reading.read() != b"ready":
                        raise OSError(errno.EIO, "it does not give back what was written")
            finally:
                self._place.delete(probe)

    @contextlib.contextmanager
    def _told(self, what: str, source: Path | None = None) -> Iterator[None]:
        """Turn what a place raises into ArtifactDamaged or StoreUnavailable; `source` is a file outside the store."""
        try:
            yield
        except (ArtifactDamaged, StoreUnavailable, WrongHash):
            raise
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as missing:
            if source is not None and not source.exists():
                raise
            if source is None and self._place.is_there():
                raise ArtifactDamaged(f"{what}: it is not in the artifact store") from missing
            reason = "its directory or bucket is missing; see G2RPO_STORAGE_URL"
            raise StoreUnavailable(errno.EIO, f"the artifact store: {what}: {reason}") from missing
        except Exception as error:  # each driver has a tree of its own
            number = error.errno if isinstance(error, OSError) else None
            reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            raise StoreUnavailable(number or errno.EIO, f"the artifact store: {what}: {reason}") from error


def _compare_size(stored: Stored, found: int) -> None:
    if found != stored.size:
        raise ArtifactDamaged(f"{stored.key} in the artifact store has {found} bytes, not {stored.size}")


def _safe(key: str) -> str:
    path = PurePosixPath(key)
    if path.is_absolute() or not path.parts or ".." in path.parts or _NOT_IN_A_KEY & set(key):
        raise ValueError(f"{key!r} is not a key of the artifact store")
    return path.as_posix()
