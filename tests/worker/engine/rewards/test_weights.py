"""Optional files of the hub: a missing file is distinguished from an unreachable hub."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from service.contracts.catalog import Source
from worker.engine.rewards.weights import find_optional

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = Source(hub="nobody/clip", revision=COMMIT)
NAME = "open_clip_config.json"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the hub's client in online mode."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def hub_says(error: Exception, monkeypatch: pytest.MonkeyPatch, cause: Exception | None = None) -> None:
    def answer(*_: Any, **__: Any) -> str:
        raise error from cause

    monkeypatch.setattr("worker.engine.rewards.weights.hf_hub_download", answer)


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's exception if the network fails and nothing is cached."""
    cause = httpx.ConnectError("Name or service not known")
    hub_says(LocalEntryNotFoundError("An error happened while trying to locate the file"), monkeypatch, cause)


def test_file_missing_from_the_hub_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_says(EntryNotFoundError("404"), monkeypatch)
    assert find_optional(SOURCE, NAME) is None


@pytest.mark.usefixtures("unreachable")
def test_unreachable_hub_is_an_error() -> None:
    reported = r"cannot reach nobody/clip/open_clip_config\.json on the hub: Name or service not known"
    with pytest.raises(ValueError, match=reported):
        find_optional(SOURCE, NAME)


@pytest.mark.usefixtures("unreachable")
def test_cached_absence_is_none_without_the_hub(cache: Path) -> None:
    known = cache / "models--nobody--clip" / ".no_exist" / COMMIT / NAME
    known.parent.mkdir(parents=True)
    known.touch()
    assert find_optional(SOURCE, NAME) is None


@pytest.mark.usefixtures("unreachable")
def test_offline_mode_uses_only_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_optional(SOURCE, NAME) is None
