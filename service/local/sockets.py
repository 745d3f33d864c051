"""Private directories for unix sockets."""

import os
import shutil
import stat
import tempfile
from collections.abc import Collection
from pathlib import Path

_LONGEST = 107
"""Bytes in a unix socket's path: the kernel's `sun_path` has room for 108 with the closing zero."""
_LONGEST_NAME = len("/g2rpo-12345678/.s.PGSQL.5432.lock")
_LINK = "sockets"


def make_directory(data: Path, owners: Collection[int]) -> Path:
    """A directory for the sockets of the server whose files are in `data`; only its owner may enter.

    It lies under the system's temporary directory because `data` can be of any length and a socket's path cannot.
    A link in `data` leads there. A server that was killed left it behind, and its successor takes it over, so that
    clients find it at the same URL; but only if it belongs to one of the users `owners`.
    """
    existing = _existing(data, owners)
    if existing is not None:
        return existing
    remove_directory(data)
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) + _LONGEST_NAME > _LONGEST:
        parent = Path("/tmp")  # noqa: S108 - mkdtemp creates the directory itself, with mode 0700
    directory = Path(tempfile.mkdtemp(prefix="g2rpo-", dir=parent)).resolve()
    (data / _LINK).symlink_to(directory)
    return directory


def _existing(data: Path, owners: Collection[int]) -> Path | None:
    link = data / _LINK
    if not link.is_symlink():
        return None
    try:
        status = link.readlink().lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o700 and status.st_uid in owners
    return link.readlink() if private else None


def remove_directory(data: Path) -> None:
    """Remove the socket directory that `data` links to, if there is one. The caller holds the lock on `data`."""
    link = data / _LINK
    if link.is_symlink():
        target = link.readlink()
        if target.name.startswith("g2rpo-"):
            shutil.rmtree(target, ignore_errors=True)
        link.unlink()


def directory_of(data: Path) -> Path | None:
    """Where the sockets of the server on `data` are, if it runs or was killed."""
    link = data / _LINK
    return link.readlink() if link.is_symlink() else None
