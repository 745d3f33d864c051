"""Where artifacts lie: a directory of this machine, or what fsspec reaches, such as an S3 bucket.

Both take a file whole or not at all. They raise FileNotFoundError for what is not there, and beside it whatever the
driver below raises.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from fsspec.core import split_protocol
from fsspec.registry import get_filesystem_class

BLOCK = 4 << 20
"""Bytes that are read at once: from an object store, one request."""

_S3: dict[str, Any] = {
    # A store that does not answer is reported within a minute or two, not after the default of many.
    "config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 3}},
    "fixed_upload_size": True,  # some S3-compatible stores want parts of equal size
    "max_concurrency": 4,  # parts of 50 MiB that are held in memory
}


class WrongHash(ValueError):
    """A file is not what it was said to be, and was not stored."""


class Place(Protocol):
    """What the artifact store needs of the thing it lies on. Keys are safe relative paths."""

    def put(self, source: Path, key: str, sha256: str | None) -> tuple[str, int]:
        """Store a file, replacing what is there; its hash and size. Raises WrongHash if it is not `sha256`."""

    def put_bytes(self, data: bytes, key: str) -> None:
        """Store a small file."""

    def open(self, key: str) -> BinaryIO:
        """Open a file for reading; it can be seeked."""

    def fetch(self, key: str, target: Path) -> None:
        """Copy a file to `target`, on this machine."""

    def exists(self, key: str) -> bool:
        """Whether there is a file under the key."""

    def size(self, key: str) -> int:
        """Bytes of a file."""

    def delete(self, prefix: str) -> None:
        """Remove the file or everything under the prefix; nothing there is no error."""

    def names(self, prefix: str) -> list[str]:
        """Names directly under the prefix, none when there is nothing."""

    def is_there(self) -> bool:
        """Whether the place itself can be reached."""

    def free_bytes(self) -> int | None:
        """Room that is left, where that can be known."""


def place(url: str) -> Place:
    """The place that an fsspec URL names. Raises ValueError or ImportError for one that cannot be used here."""
    protocol, path = split_protocol(url)
    if protocol in (None, "file", "local"):
        return Directory(Path(path).absolute())
    return Bucket(protocol, url)


class Directory:
    """A directory of this machine, or one mounted on all. Files are made durable beside, then renamed into place."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, source: Path, key: str, sha256: str | None) -> tuple[str, int]:
        with source.open("rb") as reading, self._replacing(key) as writing:
            digest, size = hashlib.sha256(), 0
            while block := reading.read(BLOCK):
                digest.update(block)
                size += writing.write(block)
            found = _checked(source, digest.hexdigest(), sha256)
        return found, size

    def put_bytes(self, data: bytes, key: str) -> None:
        with self._replacing(key) as writing:
            writing.write(data)

    def open(self, key: str) -> BinaryIO:
        return self._path(key).open("rb")

    def fetch(self, key: str, target: Path) -> None:
        shutil.copyfile(self._path(key), target)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def size(self, key: str) -> int:
        path = self._path(key)
        if path.is_dir():
            raise FileNotFoundError(key)
        return path.stat().st_size

    def delete(self, prefix: str) -> None:
        path = self._path(prefix)
        while path.is_dir():
            with contextlib.suppress(FileNotFoundError):  # somebody else is deleting it too
                shutil.rmtree(path)
        path.unlink(missing_ok=True)

    def names(self, prefix: str) -> list[str]:
        try:
            return sorted(one.name for one in self._path(prefix).iterdir() if not one.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def is_there(self) -> bool:
        return self._root.is_dir()

    def free_bytes(self) -> int | None:
        existing = next(one for one in (self._root, *self._root.parents) if one.is_dir())
        return shutil.disk_usage(existing).free

    def _path(self, key: str) -> Path:
        return self._root / key

    @contextlib.contextmanager
    def _replacing(self, key: str) -> Iterator[BinaryIO]:
        """A file that takes its place under `key` when the block ends without an error, and else is gone."""
        target = self._path(key)
        _make(target.parent)
        partial = target.with_name(f".{uuid.uuid4()}.part")
        try:
            with partial.open("xb") as writing:
                yield writing
                writing.flush()
                os.fsync(writing.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync(target.parent)


class Bucket:
    """A prefix of any filesystem of fsspec. Its objects appear whole, so nothing is renamed.

    Listings are never cached: other machines write too. The connection belongs to one process, and is made anew after
    a fork; within a process threads share it.
    """

    def __init__(self, protocol: str, url: str) -> None:
        self._class = get_filesystem_class(protocol)
        self._options = _S3 if protocol in ("s3", "s3a") else {}
        self._root = self._class._strip_protocol(url).rstrip("/")
        if not self._root:
            raise ValueError(f"{url} names no bucket: {protocol}://BUCKET/PREFIX")
        self._connected: tuple[int, Any] | None = None

    def put(self, source: Path, key: str, sha256: str | None) -> tuple[str, int]:
        with source.open("rb") as reading:
            found = _checked(source, hashlib.file_digest(reading, "sha256").hexdigest(), sha256)
            size = reading.tell()
        self._fs.put_file(str(source), self._path(key))
        return found, size

    def put_bytes(self, data: bytes, key: str) -> None:
        self._fs.pipe_file(self._path(key), data)

    def open(self, key: str) -> BinaryIO:
        # Readers ask for blocks of a good size: what is read ahead of a range would be thrown away.
        return cast(BinaryIO, self._fs.open(self._path(key), "rb", cache_type="none"))

    def fetch(self, key: str, target: Path) -> None:
        self._fs.get_file(self._path(key), str(target))

    def exists(self, key: str) -> bool:
        try:
            return self.size(key) >= 0
        except FileNotFoundError:
            if self.is_there():
                return False
            raise

    def size(self, key: str) -> int:
        about = self._fs.info(self._path(key))
        if about["type"] != "file":
            raise FileNotFoundError(key)
        return int(about["size"])

    def delete(self, prefix: str) -> None:
        path = self._path(prefix)
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(path, recursive=True)
        if self._fs.exists(path):  # a bulk deletion does not say what it left
            raise OSError(errno.EIO, "some of it is still there")

    def names(self, prefix: str) -> list[str]:
        path = self._path(prefix)
        try:
            found = [one.rstrip("/") for one in self._fs.ls(path, detail=False)]
        except FileNotFoundError:
            if self.is_there():
                return []
            raise
        return sorted({one.rpartition("/")[2] for one in found if one != path})

    def is_there(self) -> bool:
        return bool(self._fs.exists(self._root.partition("/")[0]))

    def free_bytes(self) -> int | None:
        return None

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @property
    def _fs(self) -> Any:
        if self._connected is None or self._connected[0] != os.getpid():
            made = self._class(skip_instance_cache=True, use_listings_cache=False, **self._options)
            self._connected = (os.getpid(), made)
        return self._connected[1]


def _checked(source: Path, found: str, sha256: str | None) -> str:
    if sha256 is not None and found != sha256:
        raise WrongHash(f"{source.name} has the hash {found}, not {sha256}")
    return found


def _make(directory: Path) -> None:
    """Make a directory and those above it, durably."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync(directory.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
