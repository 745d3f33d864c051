"""Parsed deployment files."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Dockerfile:
    """The instructions of a Dockerfile in order, as keyword and arguments."""

    path: Path
    instructions: tuple[tuple[str, str], ...]

    def all(self, word: str) -> list[str]:
        return [rest for found, rest in self.instructions if found == word]

    def last(self, word: str) -> str:
        return self.all(word)[-1]

    def command(self, word: str) -> list[str]:
        """The JSON list of the last instruction with this keyword, without its options."""
        text = self.last(word)
        listed: list[str] = json.loads(text[text.index("[") :])
        return listed

    def sources(self) -> list[str]:
        """Paths copied from the repository."""
        copies = [shlex.split(rest) for rest in self.all("COPY") if not rest.startswith("--from")]
        return [source for *sources, _target in copies for source in sources]


def _read(path: Path) -> Dockerfile:
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = (re.fullmatch(r"\s*([A-Z]+)\s+(.*)", line) for line in whole.splitlines())
    return Dockerfile(path, tuple((pair[1], pair[2]) for pair in pairs if pair))


@pytest.fixture(scope="session")
def dockerfiles() -> dict[str, Dockerfile]:
    """The images `service` and `worker`."""
    return {name: _read(ROOT / "docker" / f"Dockerfile.{name}") for name in ("service", "worker")}


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """`docker-compose.yml`, before variables are filled in."""
    read: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return read


@pytest.fixture(scope="session")
def gpu() -> dict[str, Any]:
    """`docker/compose.gpu.yml`."""
    read: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.gpu.yml").read_text())
    return read
