"""The file that a child prints to: its beginning is for rows, its end for the person who looks for a failure's cause.

The child appends to the file itself. Through a pipe it would wait for whoever reads, and what it printed last would be
gone with a worker that was killed; from the file the next worker reads it. What is too much is cut out of the middle
while the child goes on: the place it writes to is the file's end, wherever that is.
"""

import contextlib
from pathlib import Path

_END_BYTES = 64 * 1024
"""Of the file's end, kept where the middle is cut out."""


class ChildLog:
    """What a child has printed to `path`, of which the first `most` bytes are kept."""

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most = path, most
        self._last_line = f"\n[only the first {most} bytes of this log are kept: G2RPO_MAX_LOG_BYTES]\n".encode()

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes of what is kept, from `offset` on; a log that was longer ends with a line about that."""
        room = self._most - offset
        if room < 0:
            return b""
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                printed = file.read(min(size, room) or 1)
        except FileNotFoundError:
            return b""
        return self._last_line if printed and room == 0 else printed

    def tail(self, size: int) -> str:
        """The end of what the child printed."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - size))
                # PostgreSQL keeps no NUL in text.
                return file.read().decode("utf-8", errors="replace").replace("\x00", "�").strip()
        except FileNotFoundError:
            return ""

    def trim(self) -> None:
        """Cut the middle out of a file of more than twice what is kept. The child may lose a line it just prints."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size <= 2 * self._most:
                return
            with self._path.open("r+b") as file, self._path.open("ab") as appending:
                file.seek(-min(_END_BYTES, self._most), 2)
                end = file.read(_END_BYTES)
                file.truncate(self._most)
                appending.write(end)
