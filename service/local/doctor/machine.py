"""Check this machine: installation, settings, data directory, catalog and port."""

import importlib.util
import json
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from pydantic import ValidationError

from service.api.catalog.sources import check_sources
from service.contracts.catalog import catalog_path, load_catalog
from service.core.settings import unknown_variables, what_is_wrong
from service.local import EmbeddedError, postgres, valkey
from service.observability.checks import Degraded, Failed, format_bytes

LOCK = Path(__file__).parents[3] / "requirements.lock"
"""Lists the package versions that were tested together. The file exists only in a checkout of the repository."""
_OLDEST_PYTHON = (3, 11)
_TORCH_SECONDS = 120.0
_TORCH = """
import json, diffusers, torch
gpus = [torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count())]
print(json.dumps([torch.__version__, diffusers.__version__, gpus]))
"""
_MAX_LISTED = 5


def python() -> str:
    """Check that the Python version is recent enough."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _OLDEST_PYTHON:
        raise Failed(f"Python {found} is too old", "create the virtual environment with Python 3.11 or newer")
    return f"{found}, {sys.executable}"


def packages(lock: Path = LOCK) -> str:
    """Check that all dependencies are installed, in the versions that `lock` lists if it exists."""
    needed = [re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in requires("g2rpo") or [] if "extra ==" not in one]
    missing = [name for name in needed if _version(name) is None]
    if missing:
        raise Failed(f"not installed: {', '.join(missing)}", "run `make setup`, or `pip install g2rpo` again")
    if not lock.is_file():
        return f"g2rpo {version('g2rpo')}; no lock file to compare with"
    pinned = dict(line.split("==") for line in lock.read_text(encoding="utf-8").split() if "==" in line)
    found = {name: installed for name in pinned if (installed := _version(name)) is not None}
    other = [f"{name} {found[name]} (locked: {pinned[name]})" for name in found if found[name] != pinned[name]]
    if other:
        hint = "run `make setup`: only the locked versions were tested together"
        raise Degraded(f"different from the lock file: {_shortened(other)}", hint)
    return f"g2rpo {version('g2rpo')}; {len(found)} of {len(pinned)} locked packages are installed, as locked"


def torch() -> str:
    """Check in a separate process that torch and diffusers can be imported, because the service never loads them."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("diffusers") is None:
        return "not installed: an API does not need it; a worker needs `pip install 'g2rpo[worker]'`"
    ran = subprocess.run(
        [sys.executable, "-c", _TORCH], capture_output=True, text=True, errors="replace", timeout=_TORCH_SECONDS
    )
    if ran.returncode != 0:
        reason = (ran.stderr.strip() or f"exit status {ran.returncode}").splitlines()[-1]
        raise Failed(f"torch or diffusers cannot be imported: {reason}", "run `pip install 'g2rpo[worker]'` again")
    release, diffusers, gpus = json.loads(ran.stdout.splitlines()[-1])
    found = f"torch {release}, diffusers {diffusers}, {', '.join(gpus) if gpus else 'CPU only'}"
    if not gpus and any(Path("/proc/driver/nvidia/gpus").glob("*")):
        raise Degraded(f"{found}: torch does not find the GPU of this machine", "install a CUDA build of torch")
    return found


def embedded_servers() -> str:
    """Check that the PostgreSQL and Valkey binaries that `g2rpo up` uses are installed."""
    try:
        return f"PostgreSQL in {postgres.installed()}, Valkey {valkey.installed()}"
    except EmbeddedError as error:
        detail, _, hint = str(error).partition("; ")
        raise Failed(detail, hint) from error


def variables(environment: Mapping[str, str], invalid: ValidationError | None) -> str:
    """Check that the service's environment variables are known and valid, without showing their values."""
    if invalid is not None:
        raise Failed(what_is_wrong(invalid), "fix or unset it; docs/reference/settings.md lists every setting")
    unknown = unknown_variables(environment)
    if unknown:
        names = [f"{name} (did you mean {similar}?)" if similar else name for name, similar in unknown.items()]
        raise Degraded(f"unknown: {', '.join(names)}", "fix the name, or unset it")
    given = sorted(name for name in environment if name.startswith("G2RPO_"))
    return f"set: {', '.join(given)}" if given else "all defaults"


def data_directory(data: Path, min_free_bytes: int) -> str:
    """Check that the directory is writable, has `min_free_bytes` of free space, and is not accessible to all users."""
    existing = next(directory for directory in (data, *data.parents) if directory.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"ready")
    except OSError as error:
        hint = f"make it writable for this user, or choose another (--data, G2RPO_DATA_DIR; now {data})"
        raise Failed(f"{existing} cannot be written: {error.strerror}", hint) from error
    free = shutil.disk_usage(existing).free
    if free < min_free_bytes:
        hint = (
            f"free some space (G2RPO_MIN_FREE_BYTES requires {format_bytes(min_free_bytes)}), or choose another --data"
        )
        raise Failed(f"disk nearly full: {format_bytes(free)} left in {existing}", hint)
    if existing != data:
        return f"{data} will be created, {format_bytes(free)} free"
    if stat.S_IMODE(data.stat().st_mode) & 0o007:
        raise Degraded(f"every user of this machine can access {data}", f"run `chmod o= {data}`")
    return f"{data}, {format_bytes(free)} free"


def catalog() -> str:
    """Check that the catalog is valid, and that the files it refers to exist on this machine."""
    path = catalog_path()
    try:
        found = load_catalog(path)
    except (OSError, ValueError) as error:
        text = error.strerror or "" if isinstance(error, OSError) else str(error).replace(f"{path}: ", "")
        reason = " ".join(text.split())[:300]
        hint = "fix the file at G2RPO_CATALOG, or unset it to use the bundled file; see docs/how-to/train-flux.md"
        raise Failed(f"{path} is invalid: {reason}", hint) from error
    missing = [f"{source.entry}: {source.detail}" for source in check_sources(found) if source.missing]
    if missing:
        hint = "add the files, or fix the catalog (`g2rpo catalog check`); an API does not need them"
        raise Degraded(f"{path} refers to missing files: {'; '.join(missing)}", hint)
    numbers = f"{len(found.models)} models, {len(found.rewards)} rewards, {len(found.prompt_sets)} prompt sets"
    return f"{path}: {numbers}"


def port(number: int) -> str:
    """Check that `g2rpo up` can listen on the port."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", number))
        except OSError as error:
            hint = "stop the process on that port, or choose another (--port, G2RPO_PORT); 0 chooses a free port"
            raise Failed(f"port {number} of 127.0.0.1 is not available: {error.strerror}", hint) from error
    return f"{number} is free"


def _version(name: str) -> str | None:
    """Return a package's version without its local part (torch's build tag), or None if it is not installed."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
