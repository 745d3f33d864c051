"""The current catalog of a process, loaded again when its file changes."""

import threading
import time
from pathlib import Path

import structlog

from service.contracts.catalog import Catalog, catalog_path, load_catalog

log = structlog.get_logger()

CHECK_SECONDS = 1.0
"""Maximum delay until a change of the file is noticed."""


class CatalogLoader:
    """The catalog of a file. Safe to use from several threads.

    The file is checked for changes because a signal or a request would reach one of several API processes only. With an
    invalid file the previous catalog stays in use, and `problem` has the cause.
    """

    def __init__(self, path: Path | None = None, check_seconds: float = CHECK_SECONDS) -> None:
        """Load the catalog. Raises CatalogError or OSError, because there is no previous catalog."""
        self._path, self._check_seconds = catalog_path(path), check_seconds
        self._lock = threading.Lock()
        self._stamp = _stamp(self._path)
        self._catalog = load_catalog(self._path)
        self._checked_at = time.monotonic()
        self.problem: str | None = None
        """Why the current file is not in use."""

    def current(self) -> Catalog:
        """The catalog, at most `check_seconds` older than its file."""
        with self._lock:
            if time.monotonic() - self._checked_at >= self._check_seconds:
                self._reload()
                self._checked_at = time.monotonic()
            return self._catalog

    def _reload(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._catalog, self.problem = load_catalog(self._path), None
        except (OSError, ValueError) as error:
            self.problem = str(error)
            log.warning("catalog.not_reloaded", file=str(self._path), error=self.problem)
        else:
            log.info("catalog.reloaded", file=str(self._path))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Values that change with the file; None without a file. The inode changes when the file is replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
