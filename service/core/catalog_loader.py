"""Keep a process's catalog up to date by reloading it when its file changes."""

import threading
import time
from pathlib import Path

import structlog

from service.contracts.catalog import Catalog, catalog_path, load_catalog

log = structlog.get_logger()

CHECK_SECONDS = 1.0
"""Maximum delay before a change to the file is noticed."""


class CatalogLoader:
    """Loads the catalog from a file and reloads it when the file changes. Instances are thread-safe.

    The file is polled for changes, because a signal or request would reach only one of several API processes. If the
    file becomes invalid, the previous catalog stays in use and `problem` states the cause.
    """

    def __init__(self, path: Path | None = None, check_seconds: float = CHECK_SECONDS) -> None:
        """Load the catalog. Raises CatalogError or OSError if that fails, as there is no previous catalog to use."""
        self._path, self._check_seconds = catalog_path(path), check_seconds
        self._lock = threading.Lock()
        self._stamp = _stamp(self._path)
        self._catalog = load_catalog(self._path)
        self._checked_at = time.monotonic()
        self.problem: str | None = None
        """Why the current file is not in use, or None if it is in use."""

    def current(self) -> Catalog:
        """Return the catalog, which lags behind its file by at most `check_seconds`."""
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
    """Return values that change with the file, or None if it cannot be read. Replacing the file changes its inode."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
