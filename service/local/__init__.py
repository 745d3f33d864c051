"""PostgreSQL, Valkey, the API and the workers as children of one process: the whole service on one machine."""

import subprocess
from collections.abc import Callable
from typing import TypeAlias

Announce: TypeAlias = "Callable[[subprocess.Popen[bytes]], None]"
"""Told of a child the moment it exists, so that somebody can end it whatever happens next."""


class EmbeddedError(RuntimeError):
    """Something on this machine keeps a part of the service from starting. The message says what and how to mend it."""
