"""What is installed: Python, packages, torch, the wheels of our own servers."""

import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from service.local import EmbeddedError, postgres, valkey
from service.observability.health.findings import Doubtful, Wrong

LOCK = Path(__file__).parents[3] / "requirements.lock"
"""In a checkout, the versions that were tested together."""
_OLDEST_PYTHON = (3, 11)
_TORCH_SECONDS = 120.0
_TORCH = """
import json, diffusers, torch
cards = [torch.cuda.get_device_name(card) for card in range(torch.cuda.device_count())]
print(json.dumps([torch.__version__, diffusers.__version__, cards]))
"""


def python() -> str:
    """Python is new enough."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _OLDEST_PYTHON:
        raise Wrong(f"Python {found} is too old", "make the virtual environment with Python 3.11 or newer")
    return f"{found}, {sys.executable}"


def packages(lock: Path = LOCK) -> str:
    """What the service needs is there, in the versions of `lock` where there is one."""
    needed = [word for one in requires("g2rpo") or [] if "extra ==" not in one for word in re.findall(r"^[\w.-]+", one)]
    missing = [name for name in needed if _version(name) is None]
    if missing:
        raise Wrong(f"not installed: {', '.join(missing)}", "run `make setup`, or `pip install g2rpo` again")
    if not lock.is_file():
        return f"g2rpo {version('g2rpo')}; no lock file to compare with"
    pinned = dict(line.split("==") for line in lock.read_text(encoding="utf-8").split() if "==" in line)
    found = {name: installed for name in pinned if (installed := _version(name)) is not None}
    # torch's version ends in the kind of machine it was built for; the lock names the release alone.
    other = [f"{name} {found[name]} (locked: {pinned[name]})" for name in found if found[name] != pinned[name]]
    if other:
        more = f" and {len(other) - 5} more" if len(other) > 5 else ""
        hint = "run `make setup`: only the locked versions were tested together"
        raise Doubtful(f"not as locked: {', '.join(other[:5])}{more}", hint)
    return f"g2rpo {version('g2rpo')}; {len(found)} of {len(pinned)} locked packages are here, as locked"


def torch() -> str:
    """What a worker computes with, found by a process of its own: the service never loads it."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("diffusers") is None:
        return "not installed: right for an API alone; a worker needs `pip install 'g2rpo[worker]'`"
    ran = subprocess.run(
        [sys.executable, "-c", _TORCH], capture_output=True, text=True, errors="replace", timeout=_TORCH_SECONDS
    )
    if ran.returncode != 0:
        reason = (ran.stderr.strip() or f"it ended with status {ran.returncode}").splitlines()[-1]
        raise Wrong(f"it cannot be imported: {reason}", "run `pip install 'g2rpo[worker]'` again")
    release, diffusers, cards = json.loads(ran.stdout.splitlines()[-1])
    found = f"torch {release}, diffusers {diffusers}, {', '.join(cards) if cards else 'processor only'}"
    if not cards and any(Path("/proc/driver/nvidia/gpus").glob("*")):
        raise Doubtful(f"{found}: the machine has a GPU that torch does not see", "install a CUDA build of torch")
    return found


def wheels() -> str:
    """The PostgreSQL and Valkey that `g2rpo up` starts are installed."""
    try:
        return f"PostgreSQL in {postgres.installed()}, Valkey {valkey.installed()}"
    except EmbeddedError as error:
        detail, _, hint = str(error).partition("; ")
        raise Wrong(detail, hint) from error


def _version(name: str) -> str | None:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None
