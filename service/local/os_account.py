"""Choose the account that runs PostgreSQL: the current user, or `nobody` if that is root, which PostgreSQL rejects."""

import os
import pwd
import re
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.local import EmbeddedError

_CAP_DAC_READ_SEARCH = 2


@dataclass(frozen=True)
class Account:
    """The user that a server process runs as. `name` is None if it is the current user."""

    name: str | None
    uid: int
    gid: int

    def own(self, *paths: Path) -> None:
        """Make this account the owner of `paths`."""
        if self.name is not None:
            for path in paths:
                os.chown(path, self.uid, self.gid)

    def command(self, argv: Sequence[str | Path], reaches: Sequence[Path]) -> tuple[list[str], dict[str, Any]]:
        """Return subprocess.Popen arguments that run `argv` as this account with access to the paths in `reaches`.

        If the account may not enter one of their directories (such as root's home), the process gets the one capability
        that bypasses this check. The alternative, a copy of the server elsewhere, would leave files behind. Raises
        EmbeddedError if the capability is required but cannot be granted because `setpriv` is missing.
        """
        arguments = [str(argument) for argument in argv]
        if self.name is None:
            return arguments, {}
        closed = [path for path in reaches if not self._can_reach(path)]
        if not closed:
            return arguments, {"user": self.uid, "group": self.gid, "extra_groups": []}
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise EmbeddedError(
                f"PostgreSQL does not run as root, and the user {self.name} cannot access {closed[0]}. Run as an "
                f"ordinary user, use directories that every user may enter, or install util-linux"
            )
        capability = "dac_read_search" if _has_capability(_CAP_DAC_READ_SEARCH) else "dac_override"
        prefix = [setpriv, f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        prefix += [f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"]
        # Without this bit, access(2) ignores the capabilities of a non-root process.
        prefix += ["--securebits=+no_setuid_fixup", "--"]
        return prefix + arguments, {}

    def _can_reach(self, path: Path) -> bool:
        path = path.resolve()
        return all(self._may_enter(parent.stat()) for parent in (path, *path.parents))

    def _may_enter(self, status: os.stat_result) -> bool:
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def server_account() -> Account:
    """Return the account for a server that refuses to run as root. Raises EmbeddedError if there is none."""
    if os.geteuid() != 0:
        return Account(None, os.geteuid(), os.getegid())
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError(
            "PostgreSQL does not run as root; create the user `nobody`, or run as an ordinary user"
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> number & 1)
