"""The account PostgreSQL runs under: the user's own, or `nobody` when the user is root, whom PostgreSQL refuses."""

import os
import pwd
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
    """Another user to become, or none."""

    name: str | None
    uid: int
    gid: int

    def own(self, *paths: Path) -> None:
        """Give `paths` to the account."""
        if self.name is not None:
            for path in paths:
                os.chown(path, self.uid, self.gid)

    def command(self, argv: Sequence[str | Path], reaches: Sequence[Path]) -> tuple[list[str], dict[str, Any]]:
        """Arguments of subprocess.Popen that run `argv` as this account, able to get at the paths in `reaches`.

        Where a directory on the way is closed to the account (root's home, a test's temporary directory), the process
        gets the one capability that lets it pass: copying a server elsewhere would leave files behind.
        """
        words = [str(word) for word in argv]
        if self.name is None:
            return words, {}
        closed = [path for path in reaches if not self._can_reach(path)]
        if not closed:
            return words, {"user": self.uid, "group": self.gid, "extra_groups": []}
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise EmbeddedError(
                f"PostgreSQL does not run as root, and the user {self.name} cannot reach {closed[0]}. Work as an "
                f"ordinary user, or install and keep the data where every user may enter, or install util-linux"
            )
        capability = "dac_read_search" if _has_capability(_CAP_DAC_READ_SEARCH) else "dac_override"
        prefix = [setpriv, f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        prefix += [f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"]
        # access(2) disregards capabilities of a process that is not root unless this bit is set.
        prefix += ["--securebits=+no_setuid_fixup", "--"]
        return prefix + words, {}

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
    """The account for a server that refuses to run as root."""
    if os.geteuid() != 0:
        return Account(None, os.geteuid(), os.getegid())
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError("PostgreSQL does not run as root, and there is no user `nobody` to run it as") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
