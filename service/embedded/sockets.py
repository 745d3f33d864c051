"""Private directories for unix sockets."""

import os
import shutil
import tempfile
from pathlib import Path

_LONGEST = 107
"""Bytes in a unix socket's path: the kernel's `sun_path` has room for 108 with the closing zero."""
_LONGEST_NAME = len("/g2rpo-12345678/.s.PGSQL.5432.lock")
_LINK = "sockets"


def make_directory(data: Path) -> Path:
    """A new directory for the sockets of the server whose files are in `data`; only its owner may enter.

    It lies under the system's temporary directory because `data` can be of any length and a socket's path cannot.
    A link in `data` leads there, for people and for removing what a killed server left.
    """
    remove_directory(data)
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) + _LONGEST_NAME > _LONGEST:
        parent = Path("/tmp")  # noqa: S108 - mkdtemp creates the directory itself, with mode 0700
    directory = Path(tempfile.mkdtemp(prefix="g2rpo-", dir=parent)).resolve()
    (data / _LINK).symlink_to(directory)
    return directory


def remove_directory(data: Path) -> None:
    """Remove the socket directory that `data` links to, if there is one. The caller holds the lock on `data`."""
    link = data / _LINK
    if link.is_symlink():
        target = link.readlink()
        if target.name.startswith("g2rpo-"):
            shutil.rmtree(target, ignore_errors=True)
        link.unlink()
