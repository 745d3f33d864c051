"""The artifact store, which holds images and checkpoints under keys that the service generates.

Workers write to the store and the API reads from it. A key is a relative path such as `runs/<id>/1/checkpoints/20`.
Database rows contain keys instead of URLs, so that a store can be moved. A file is stored completely or not at all. A
directory is complete once it contains its manifest, which is written last.
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

from service.db.storage_backends import BLOCK, WrongHash, backend_of

__all__ = ["BLOCK", "ArtifactDamaged", "ArtifactStore", "StoreUnavailable", "Stored", "WrongHash"]

_NOT_IN_A_KEY = frozenset('\\\x00*?[]{}"<>|\n\r')
"""Characters that some stores interpret as a pattern, a version or the end of a name."""


class ArtifactDamaged(Exception):
    """A stored file is missing or does not match its database row."""


class StoreUnavailable(OSError):
    """The store is unreachable or fails. The file itself may be intact, and a retry may succeed."""

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True)
class Stored:
    """The key, hash and size (in bytes) of a stored file."""

    key: str
    sha256: str
    size: int


class ArtifactStore:
    """A store of files under an fsspec URL such as `file:///var/lib/g2rpo` or `s3://bucket/prefix`.

    Instances are thread-safe and can be used after a fork. An S3 store reads its credentials, region and endpoint from
    the standard AWS environment variables. Every method raises StoreUnavailable while the store cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._backend = backend_of(url)

    def put_file(self, source: Path, key: str, sha256: str | None = None) -> Stored:
        """Store one file under `key`, replacing any earlier file.

        Raises WrongHash, and stores nothing, if the file's hash is not `sha256`. Raises FileNotFoundError if `source`
        does not exist.
        """
        safe = _safe(key)
        with self._translate_errors(f"cannot store {key}", source):
            return Stored(key, *self._backend.put(source, safe, sha256))

    def get_directory(self, key: str, names: list[str], target: Path) -> None:
        """Copy the named files of a stored directory to `target`. Raises ArtifactDamaged if one is missing."""
        for name in names:
            local = target / _safe(name)
            local.parent.mkdir(parents=True, exist_ok=True)
            safe = _safe(f"{key}/{name}")
            with self._translate_errors(f"cannot fetch {safe}"):
                self._backend.fetch(safe, local)

    def read(self, key: str, sha256: str) -> bytes:
        """Read a whole stored file and verify its hash. Raises ArtifactDamaged if it is missing or altered."""
        safe = _safe(key)
        with self._translate_errors(f"cannot read {key}"), self._backend.open(safe) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtifactDamaged(f"{key} in the artifact store does not match its recorded SHA-256 hash")
        return data

    def check_whole(self, files: Iterable[Stored]) -> None:
        """Check that all files exist and have the recorded sizes. Raises ArtifactDamaged otherwise."""
        for file in files:
            safe = _safe(file.key)
            with self._translate_errors(f"cannot read {file.key}"):
                found = self._backend.size(safe)
            _compare_size(file, found)

    def stream(self, stored: Stored, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Read `length` bytes from `start`, by default to the end, in blocks. Raises ArtifactDamaged.

        The existence and size of the file are checked before the first block. The hash of a file of at most BLOCK bytes
        is checked before the first block as well. The hash of a larger file is checked before the last block if the
        whole file is read, but is not checked if only a part is read.
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
        """Whether a file is stored under `key`."""
        safe = _safe(key)
        with self._translate_errors(f"cannot look up {key}"):
            return self._backend.exists(safe)

    def names(self, prefix: str) -> Iterator[str]:
        """Iterate over the names directly under `prefix`, such as the ids under `runs`."""
        safe = _safe(prefix)
        with self._translate_errors(f"cannot list {prefix}"):
            return iter(self._backend.names(safe))

    def delete(self, prefix: str) -> None:
        """Remove everything under `prefix`, if anything exists there."""
        safe = _safe(prefix)
        with self._translate_errors(f"cannot delete {prefix}"):
            self._backend.delete(safe)

    def free_bytes(self) -> int | None:
        """Return the bytes that can still be stored, or None if the store has no limit or does not report it."""
        with self._translate_errors("cannot determine the free space"):
            return self._backend.free_bytes()

    def check(self) -> None:
        """Check the store by writing, reading and removing a file. Raises StoreUnavailable if that fails."""
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
        """Translate a backend's errors to ArtifactDamaged or StoreUnavailable. `source` is a file outside the store."""
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
        raise ArtifactDamaged(
            f"{stored.key} in the artifact store has {found} bytes, but its recorded size is {stored.size}"
        )


def _safe(key: str) -> str:
    path = PurePosixPath(key)
    if path.is_absolute() or not path.parts or ".." in path.parts or _NOT_IN_A_KEY & set(key):
        raise ValueError(f"invalid artifact store key: {key!r}")
    return path.as_posix()
