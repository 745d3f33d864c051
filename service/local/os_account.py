"""Choose the account that runs PostgreSQL: the current user, or a dedicated system account if that is root."""

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.local import EmbeddedError

NAME = "g2rpo-postgres"
"""The account for root. It runs nothing else, because a process with the server's user id can read the database."""
_OPTIONS = ("--system", "--user-group", "--no-create-home", "--home-dir=/nonexistent", "--shell=/usr/sbin/nologin")


@dataclass(frozen=True)
class Account:
    """The user that a server process runs as."""

    name: str
    uid: int
    gid: int

    @property
    def is_current(self) -> bool:
        """Whether it is the current user."""
        return self.uid == os.geteuid()

    @property
    def process_options(self) -> dict[str, Any]:
        """The subprocess options that run a program as this account, without other groups and capabilities."""
        return {} if self.is_current else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Make this account the owner of `path`, which must be in a directory that the account cannot write to."""
        if not self.is_current:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def can_enter(self, directory: Path) -> bool:
        """Whether the account may enter a directory and all its parents."""
        directory = directory.resolve()
        return self.is_current or all(self._may_enter(path.stat()) for path in (directory, *directory.parents))

    def _may_enter(self, status: os.stat_result) -> bool:
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def current_account() -> Account:
    """Return the account of this process. Raises EmbeddedError if its user id has no name."""
    try:
        return _account(pwd.getpwuid(os.geteuid()))
    except KeyError:
        raise EmbeddedError(
            f"The user id {os.geteuid()} has no name, which PostgreSQL needs; add it to /etc/passwd, or set "
            "G2RPO_DATABASE_URL"
        ) from None


def server_account() -> Account:
    """Return the account for PostgreSQL, which refuses to run as root. For root, create a system account if necessary.

    Raises EmbeddedError if the account cannot be created.
    """
    if os.geteuid() != 0:
        return current_account()
    try:
        return _account(pwd.getpwnam(NAME))
    except KeyError:
        problem = _create()
    try:
        return _account(pwd.getpwnam(NAME))  # also if another process has created it
    except KeyError:
        raise EmbeddedError(
            f"PostgreSQL does not run as root and needs the system account {NAME}, which could not be created "
            f"({problem}); create it (`useradd --system {NAME}`), run as an ordinary user, or set G2RPO_DATABASE_URL"
        ) from None


def user_name(uid: int) -> str:
    """Return the name of a user id, or the id itself if it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _create() -> str:
    """Create the system account. Return the error message."""
    program = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        return "useradd is not installed"
    return subprocess.run([program, *_OPTIONS, NAME], capture_output=True, text=True, errors="replace").stderr.strip()


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
