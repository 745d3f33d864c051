"""The artifact store."""

from pathlib import Path

import pytest

from service.contracts.jobs import MANIFEST_FILE
from service.db.artifacts import ArtifactDamaged, ArtifactStore


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """A store in a directory, and one without directories."""
    url = f"file://{tmp_path / 'store'}" if request.param == "file" else f"memory://{tmp_path.name}"
    return ArtifactStore(url)


def write(directory: Path, **files: str) -> Path:
    for name, content in files.items():
        place = directory / name.replace("__", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
    return directory


def test_a_file_comes_back_with_its_hash(store: ArtifactStore, tmp_path: Path) -> None:
    stored = store.put_file(write(tmp_path, picture="pixels") / "picture", "runs/1/a.png")
    assert (stored.key, stored.size) == ("runs/1/a.png", 6)
    assert store.read(stored.key, stored.sha256) == b"pixels"
    assert b"".join(store.stream(stored.key, 1, 3)) == b"ixe"


def test_a_directory_is_stored_with_its_manifest_last(store: ArtifactStore, tmp_path: Path) -> None:
    source = write(tmp_path / "checkpoint", weights="w", sub__more="m", **{MANIFEST_FILE: "{}"})
    stored = store.put_directory(source, "runs/1/checkpoints/20")
    assert list(stored) == ["sub/more", "weights", MANIFEST_FILE]
    target = tmp_path / "copy"
    store.get_directory("runs/1/checkpoints/20", ["sub/more", "weights"], target)
    assert (target / "sub/more").read_text() == "m"
    store.delete("runs/1")
    assert not store.exists("runs/1/checkpoints/20/weights")
    store.delete("runs/1")


def test_a_directory_without_a_manifest_is_not_stored(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not complete"):
        store.put_directory(write(tmp_path / "half", weights="w"), "runs/1")
    assert not store.exists("runs/1/weights")


def test_damage_is_found_on_reading(store: ArtifactStore, tmp_path: Path) -> None:
    stored = store.put_file(write(tmp_path, a="right") / "a", "a")
    store.put_file(write(tmp_path, b="wrong") / "b", "a")
    with pytest.raises(ArtifactDamaged, match="hash"):
        store.read("a", stored.sha256)
    with pytest.raises(ArtifactDamaged):
        list(store.stream("a", 0, 5, stored.sha256))
    with pytest.raises(ArtifactDamaged):
        list(store.stream("a", 0, 6))
    with pytest.raises(ArtifactDamaged, match="not in the artifact store"):
        store.stream("missing", 0, 1)


@pytest.mark.parametrize("key", ["/etc/passwd", "../a", "a/../../b", "", "a\\b", "a\x00"])
def test_a_key_stays_inside(store: ArtifactStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        store.open(key)
