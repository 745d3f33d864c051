"""The catalog that this process offers now: its file, read anew when it has changed."""

import threading
import time
from pathlib import Path

import structlog

from service.contracts.catalog import Catalog, catalog_path, load_catalog

log = structlog.get_logger()

LOOK_SECONDS = 1.0
"""How long a change may go unnoticed."""
_Stamp = tuple[int, int, int]


class Offer:
    """The file's catalog, for any thread to ask for.

    The file is looked at rather than a signal or a request awaited, since those would reach one of several API
    processes. A file that cannot be used leaves the catalog as it was; `problem` says why.
    """

    def __init__(self, path: Path | None = None, look_seconds: float = LOOK_SECONDS) -> None:
        """Raises CatalogError or OSError: there is no earlier catalog to go on with."""
        self._path, self._look_seconds = catalog_path(path), look_seconds
        self._lock = threading.Lock()
        self._stamp: _Stamp | None = _stamp(self._path)
        self._catalog = load_catalog(self._path)
        self._looked = time.monotonic()
        self.problem: str | None = None
        """Why the file, as it is now, is not what is offered."""

    def current(self) -> Catalog:
        """The catalog, at most so many seconds behind its file."""
        with self._lock:
            if time.monotonic() - self._looked >= self._look_seconds:
                self._look()
                self._looked = time.monotonic()
            return self._catalog

    def _look(self) -> None:
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


def _stamp(path: Path) -> _Stamp | None:
    """What changes with a file's contents; None for no file. The inode tells of one that was moved into its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
