"""The artifact store: images and checkpoints, by keys that the service generates.

Workers write, the API reads. A key is a relative path such as `runs/<id>/1/checkpoints/20`; rows contain keys, so that
a store can be moved. A file is stored completely or not at all. A directory is complete once it has its manifest, which
is written last.
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
from service.db.storage_backends import BLOCK, WrongHash, backend_of

__all__ = ["BLOCK", "ArtifactDamaged", "ArtifactStore", "StoreUnavailable", "Stored", "WrongHash"]

_NOT_IN_A_KEY = frozenset('\\\x00*?[]{}"<>|\n\r')
"""Characters that some store interprets as a pattern, a version or the end of a name."""


class ArtifactDamaged(Exception):
    """A stored file is missing, or differs from its row."""


class StoreUnavailable(OSError):
    """The store cannot be reached or fails, which says nothing about the file. A retry may succeed."""

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True)
class Stored:
    """Key, hash and size (bytes) of a stored file."""

    key: str
    sha256: str
    size: int


class ArtifactStore:
    """Files under an fsspec URL such as `file:///var/lib/g2rpo` or `s3://bucket/prefix`.

    It may be shared by threads and used after a fork. An S3 store reads credentials, region and endpoint from the
    standard AWS environment variables. Every method raises StoreUnavailable while the store cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._backend = backend_of(url)

    def put_file(self, source: Path, key: str, sha256: str | None = None) -> Stored:
        """Store one file under `key`, replacing an earlier one.

        Raises WrongHash, without storing, if the hash is not `sha256`, and FileNotFoundError without a `source`.
        """
        safe = _safe(key)
        with self._translate_errors(f"cannot store {key}", source):
            return Stored(key, *self._backend.put(source, safe, sha256))

    def put_directory(self, source: Path, key: str, last: str = MANIFEST_FILE) -> dict[str, Stored]:
        """Store every file of a directory, `last` after all others; the stored files by relative name."""
        names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
        if last not in names:
            raise FileNotFoundError(f"{source} is not complete: it has no {last}")
        names.remove(last)
        return {name: self.put_file(source / name, f"{key}/{name}") for name in (*names, last)}

    def get_directory(self, key: str, names: list[str], target: Path) -> None:
        """Copy the named files of a stored directory into `target`. Raises ArtifactDamaged for a missing one."""
        for name in names:
            local = target / _safe(name)
            local.parent.mkdir(parents=True, exist_ok=True)
            safe = _safe(f"{key}/{name}")
            with self._translate_errors(f"cannot fetch {safe}"):
                self._backend.fetch(safe, local)

    def read(self, key: str, sha256: str) -> bytes:
        """All bytes of a stored file, checked against the hash in its row. Raises ArtifactDamaged."""
        safe = _safe(key)
        with self._translate_errors(f"cannot read {key}"), self._backend.open(safe) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtifactDamaged(f"{key} in the artifact store does not have its recorded SHA-256 hash")
        return data

    def check_size(self, stored: Stored) -> None:
        """Raise ArtifactDamaged unless the file exists and has the recorded size."""
        safe = _safe(stored.key)
        with self._translate_errors(f"cannot read {stored.key}"):
            found = self._backend.size(safe)
        _compare_size(stored, found)

    def check_whole(self, files: Iterable[Stored]) -> None:
        """Raise ArtifactDamaged unless all files exist and have the recorded sizes."""
        for file in files:
            self.check_size(file)

    def stream(self, stored: Stored, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """`length` bytes from `start`, all by default, in blocks. Raises ArtifactDamaged.

        Before the first block, the existence and size of the file are checked, and the hash if it has at most BLOCK
        bytes. For a larger file that is read from start to end, the hash is checked before the last block; for a part
        of a larger file, the hash is not checked.
        """
        length = stored.size - start if length is None else length
        if stored.size <= BLOCK:
            return iter([self.read(stored.key, stored.sha256)[start : start + length]])
        safe = _safe(stored.key)
        with self._translate_errors(f"cannot read {stored.key}"):
            file = self._backend.open(safe)
            _compare_size(stored, file.seek(0, io.SEEK_END))
            file.seek(start)
        return self._blocks(file, stored, length)

    def _blocks(self, file: BinaryIO, stored: Stored, length: int) -> Iterator[bytes]:
        digest, left, held = hashlib.sha256(), length, b""
        with file:
            while left > 0:
                with self._translate_errors(f"cannot read {stored.key}"):
                    block = file.read(min(BLOCK, left))
                if not block:
                    break
                left -= len(block)
                digest.update(block)
                if held:
                    yield held
                held = block
        if left > 0 or (length == stored.size and digest.hexdigest() != stored.sha256):
            raise ArtifactDamaged(f"{stored.key} in the artifact store differs from its recorded hash or size")
        yield held

    def exists(self, key: str) -> bool:
        """Whether there is a file under `key`."""
        safe = _safe(key)
        with self._translate_errors(f"cannot look up {key}"):
            return self._backend.exists(safe)

    def names(self, prefix: str) -> Iterator[str]:
        """Names directly under `prefix`, such as the ids under `runs`."""
        safe = _safe(prefix)
        with self._translate_errors(f"cannot list {prefix}"):
            return iter(self._backend.names(safe))

    def delete(self, prefix: str) -> None:
        """Remove everything under `prefix`, if there is any."""
        safe = _safe(prefix)
        with self._translate_errors(f"cannot delete {prefix}"):
            self._backend.delete(safe)

    def free_bytes(self) -> int | None:
        """Bytes that can still be stored, or None if the store has no such limit or does not report it."""
        with self._translate_errors("cannot determine the free space"):
            return self._backend.free_bytes()

    def check(self) -> None:
        """Write, read and remove a file. Raises StoreUnavailable."""
        probe = f"probes/{uuid.uuid4()}"
        with self._translate_errors("test file failed"):
            self._backend.put_bytes(b"ready", probe)
            try:
                with self._backend.open(probe) as file:
                    if file.read() != b"ready":
                        raise OSError(errno.EIO, "the contents read differ from those written")
            finally:
                self._backend.delete(probe)

    @contextlib.contextmanager
    def _translate_errors(self, action: str, source: Path | None = None) -> Iterator[None]:
        """Raise a backend's errors as ArtifactDamaged or StoreUnavailable; `source` is a file outside the store."""
        try:
            yield
        except (ArtifactDamaged, StoreUnavailable, WrongHash):
            raise
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as missing:
            if source is not None and not source.exists():
                raise
            if source is None and self._backend.is_available():
                raise ArtifactDamaged(f"{action}: the file is not in the artifact store") from missing
            reason = "the directory or bucket is missing; check G2RPO_STORAGE_URL"
            raise StoreUnavailable(errno.EIO, f"artifact store: {action}: {reason}") from missing
        except Exception as error:  # each driver has its own error types
            number = error.errno if isinstance(error, OSError) else None
            reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            raise StoreUnavailable(number or errno.EIO, f"artifact store: {action}: {reason}") from error


def _compare_size(stored: Stored, found: int) -> None:
    if found != stored.size:
        raise ArtifactDamaged(f"{stored.key} in the artifact store has {found} bytes; {stored.size} are recorded")


def _safe(key: str) -> str:
    path = PurePosixPath(key)
    if path.is_absolute() or not path.parts or ".." in path.parts or _NOT_IN_A_KEY & set(key):
        raise ValueError(f"invalid key of the artifact store: {key!r}")
    return path.as_posix()
