"""Storage backends of the artifact store: a local directory, or any fsspec filesystem such as an S3 bucket.

A file is stored completely or not at all. Reading a missing file raises FileNotFoundError. Other errors are those of
the driver.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec.core import split_protocol
from fsspec.registry import get_filesystem_class

BLOCK = 4 << 20
"""Bytes per read. Each read from an object store is one request."""

_S3: dict[str, Any] = {
    # Report a store that does not respond within two minutes; by default this takes many minutes.
    "config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 3}},
    "fixed_upload_size": True,  # some S3-compatible stores require parts of equal size
    "max_concurrency": 4,  # parts of 50 MiB, held in memory
}


class WrongHash(ValueError):
    """A file was not stored because it does not have the expected hash."""


class Bucket:
    """A prefix of an fsspec filesystem in which objects only become visible once they are completely written.

    Keys are safe relative paths. Listings are never cached, because other machines also write to the store. Threads
    share one connection, and a forked process opens its own.
    """

    def __init__(self, protocol: str, url: str) -> None:
        self._class = get_filesystem_class(protocol)
        self._options = _S3 if protocol in ("s3", "s3a") else {}
        self._root: str = self._class._strip_protocol(url).rstrip("/")
        if not self._root:
            raise ValueError(f"{url} has no bucket; expected {protocol}://BUCKET/PREFIX")
        self._connected: tuple[int, Any] | None = None

    def put(self, source: Path, key: str, sha256: str | None) -> tuple[str, int]:
        """Store a file, replacing any earlier one, and return its hash and size.

        Raises WrongHash if `sha256` is given and differs from the file's hash.
        """
        with source.open("rb") as file:
            found = _check_hash(source, hashlib.file_digest(file, "sha256").hexdigest(), sha256)
            size = file.tell()
        self._fs.put_file(str(source), self._path(key))
        return found, size

    def put_bytes(self, data: bytes, key: str) -> None:
        """Store a small file."""
        self._fs.pipe_file(self._path(key), data)

    def open(self, key: str) -> BinaryIO:
        """Open a file for reading. The returned file is seekable."""
        # Callers already read large blocks, so data that is read ahead would be thrown away.
        return cast(BinaryIO, self._fs.open(self._path(key), "rb", cache_type="none"))

    def fetch(self, key: str, target: Path) -> None:
        """Copy a file to the local path `target`."""
        self._fs.get_file(self._path(key), str(target))

    def exists(self, key: str) -> bool:
        """Whether a file is stored under the key."""
        try:
            return self.size(key) >= 0
        except (FileNotFoundError, NotADirectoryError):
            self._require_root()
            return False

    def size(self, key: str) -> int:
        """Return the size of a file in bytes. Raises FileNotFoundError if there is no such file."""
        info = self._fs.info(self._path(key))
        if info["type"] != "file":
            raise FileNotFoundError(key)
        return int(info["size"])

    def delete(self, prefix: str) -> None:
        """Remove the file at the prefix, or everything under it, if anything exists there."""
        path = self._path(prefix)
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(path, recursive=True)
        if self._fs.exists(path):  # a bulk deletion does not report which objects it failed to delete
            raise OSError(errno.EIO, "some files were not deleted")

    def names(self, prefix: str) -> list[str]:
        """Return the sorted names directly under the prefix."""
        path = self._path(prefix)
        try:
            found = [name.rstrip("/") for name in self._fs.ls(path, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            self._require_root()
            return []
        names = {name.rpartition("/")[2] for name in found if name != path}
        return sorted(name for name in names if not name.startswith("."))  # a dot marks a file being written

    def is_available(self) -> bool:
        """Whether the bucket or directory itself exists."""
        return bool(self._fs.exists(self._root.partition("/")[0]))

    def free_bytes(self) -> int | None:
        """Return the number of bytes that can still be stored, or None if it is unknown."""
        return None

    def _require_root(self) -> None:
        if not self.is_available():
            raise FileNotFoundError(self._root)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @property
    def _fs(self) -> Any:
        if self._connected is None or self._connected[0] != os.getpid():
            filesystem = self._class(skip_instance_cache=True, use_listings_cache=False, **self._options)
            self._connected = (os.getpid(), filesystem)
        return self._connected[1]


class Directory(Bucket):
    """A local or mounted directory, created by the first write. Files are synced to disk, then renamed."""

    def __init__(self, path: str) -> None:
        super().__init__("file", path)

    def put(self, source: Path, key: str, sha256: str | None) -> tuple[str, int]:
        with source.open("rb") as reading, self._replace(key) as writing:
            digest, size = hashlib.sha256(), 0
            while block := reading.read(BLOCK):
                digest.update(block)
                size += writing.write(block)
            return _check_hash(source, digest.hexdigest(), sha256), size

    def put_bytes(self, data: bytes, key: str) -> None:
        with self._replace(key) as file:
            file.write(data)

    def delete(self, prefix: str) -> None:
        path = Path(self._path(prefix))
        while path.is_dir():
            with contextlib.suppress(FileNotFoundError):  # another process is deleting it as well
                shutil.rmtree(path)
        path.unlink(missing_ok=True)

    def is_available(self) -> bool:
        return Path(self._root).is_dir()

    def free_bytes(self) -> int | None:
        root = Path(self._root)
        return shutil.disk_usage(next(path for path in (root, *root.parents) if path.is_dir())).free

    def _require_root(self) -> None:
        """Treat a missing directory as an empty store."""

    @contextlib.contextmanager
    def _replace(self, key: str) -> Iterator[BinaryIO]:
        """Open a temporary file that is renamed to `key` at the end of the block, or removed after an exception."""
        target = Path(self._path(key))
        _make_directory(target.parent)
        partial = target.with_name(f".{uuid.uuid4()}.part")
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync(target.parent)


def backend_of(url: str) -> Bucket:
    """Return the storage backend for an fsspec URL. Raises ValueError or ImportError if the URL is not supported."""
    protocol, path = split_protocol(url)
    return Directory(path) if protocol in (None, "file", "local") else Bucket(protocol, url)


def _check_hash(source: Path, found: str, expected: str | None) -> str:
    if expected not in (None, found):
        raise WrongHash(f"{source.name} has the SHA-256 {found}, not {expected}")
    return found


def _make_directory(directory: Path) -> None:
    """Create a directory and its parents, and sync them to disk."""
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync(directory.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
