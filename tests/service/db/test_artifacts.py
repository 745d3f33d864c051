"""The artifact store: the same tests for a directory and an S3 bucket."""

import errno
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.db.artifacts import BLOCK, ArtifactDamaged, ArtifactStore, Stored, StoreUnavailable, WrongHash

LONG = os.urandom(2 * BLOCK + 1000)


@pytest.fixture(params=["directory", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    if request.param == "bucket":
        return str(request.getfixturevalue("bucket_url"))
    return f"file://{tmp_path / 'the store'}"


@pytest.fixture
def store(url: str) -> ArtifactStore:
    """An empty store."""
    return ArtifactStore(url)


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def put(store: ArtifactStore, directory: Path, key: str, content: bytes) -> Stored:
    return store.put_file(write(directory, {"file": content}) / "file", key)


class TestFiles:
    def test_a_file_is_read_and_streamed_unchanged(self, store: ArtifactStore, tmp_path: Path) -> None:
        for content in (b"", b"pixels", LONG):
            stored = put(store, tmp_path, "runs/1/a.png", content)
            assert (stored.key, stored.size) == ("runs/1/a.png", len(content))
            assert store.read(stored.key, stored.sha256) == content
            assert b"".join(store.stream(stored)) == content
            store.check_whole([stored])

    def test_any_part_of_a_file_can_be_streamed(self, store: ArtifactStore, tmp_path: Path) -> None:
        stored = put(store, tmp_path, "a", LONG)
        for start, length in ((0, 1), (BLOCK - 1, 2), (5, 2 * BLOCK), (len(LONG) - 1, 1)):
            assert b"".join(store.stream(stored, start, length)) == LONG[start : start + length]

    def test_a_later_file_replaces_an_earlier_one(self, store: ArtifactStore, tmp_path: Path) -> None:
        put(store, tmp_path, "a", b"a longer one")
        second = put(store, tmp_path, "a", b"second")
        assert store.read("a", second.sha256) == b"second"

    def test_nothing_is_stored_of_a_file_with_another_hash(self, store: ArtifactStore, tmp_path: Path) -> None:
        first = put(store, tmp_path, "a", b"right")
        source = write(tmp_path, {"wrong": b"wrong"}) / "wrong"
        with pytest.raises(WrongHash):
            store.put_file(source, "a", first.sha256)
        with pytest.raises(WrongHash):
            store.put_file(source, "b", first.sha256)
        assert store.read("a", first.sha256) == b"right" and not store.exists("b")

    def test_a_missing_source_is_an_error(self, store: ArtifactStore, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            store.put_file(tmp_path / "missing", "a")

    def test_a_key_outside_the_store_is_refused(self, store: ArtifactStore) -> None:
        for key in ("/etc/passwd", "../a", "a/../../b", "", "a\\b", "a\x00", "a*", "a?versionId=1"):
            for use in (store.exists, store.delete, store.names):
                with pytest.raises(ValueError, match="invalid artifact store key"):
                    use(key)


class TestDirectories:
    def test_the_files_of_a_directory_are_fetched(self, store: ArtifactStore, tmp_path: Path) -> None:
        for name, data in {"weights": LONG, "sub/more": b"m"}.items():
            put(store, tmp_path, f"runs/1/checkpoints/20/{name}", data)
        target = tmp_path / "copy"
        store.get_directory("runs/1/checkpoints/20", ["sub/more", "weights"], target)
        assert (target / "sub/more").read_bytes() == b"m" and (target / "weights").read_bytes() == LONG
        with pytest.raises(ArtifactDamaged):
            store.get_directory("runs/1/checkpoints/20", ["other"], target)

    def test_names_under_a_prefix_are_listed(self, store: ArtifactStore, tmp_path: Path) -> None:
        assert list(store.names("runs")) == []
        for key in ("runs/1/a", "runs/1/b/c", "runs/2/a", "generations/3/a"):
            put(store, tmp_path, key, b"x")
        assert list(store.names("runs")) == ["1", "2"]
        assert list(store.names("runs/1")) == ["a", "b"]
        assert list(store.names("runs/7")) == [] == list(store.names("runs/1/a"))

    def test_deleting_removes_exactly_a_prefix(self, store: ArtifactStore, tmp_path: Path) -> None:
        for key in ("runs/1/a", "runs/1/b/c", "runs/10/a", "runs/1.png"):
            put(store, tmp_path, key, b"x")
        for _ in range(2):
            store.delete("runs/1")
            assert list(store.names("runs")) == ["1.png", "10"]
        store.delete("runs/1.png")
        assert not store.exists("runs/1.png") and store.exists("runs/10/a")
        store.delete("never/there")

    def test_files_of_another_process_are_visible_immediately(self, url: str, tmp_path: Path) -> None:
        here, there = ArtifactStore(url), ArtifactStore(url)
        assert list(here.names("runs")) == [] and not here.exists("runs/1/a")
        stored = put(there, tmp_path, "runs/1/a", b"x")
        assert list(here.names("runs")) == ["1"] and here.read("runs/1/a", stored.sha256) == b"x"
        there.delete("runs/1")
        assert not here.exists("runs/1/a") and list(here.names("runs/1")) == []


class TestDamage:
    @pytest.mark.parametrize("content", [b"right", LONG], ids=["short", "long"])
    def test_an_altered_file_is_never_returned_completely(
        self, store: ArtifactStore, tmp_path: Path, content: bytes
    ) -> None:
        stored = put(store, tmp_path, "a", content)
        put(store, tmp_path, "a", content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ArtifactDamaged, match="hash"):
            store.read("a", stored.sha256)
        received = b""
        with pytest.raises(ArtifactDamaged):
            for block in store.stream(stored):
                received += block
        assert len(received) < len(content)

    def test_damage_to_a_short_file_is_found_before_the_first_byte(self, store: ArtifactStore, tmp_path: Path) -> None:
        stored = put(store, tmp_path, "a", b"right")
        put(store, tmp_path, "a", b"wrong")
        for start, length in ((0, None), (1, 2)):
            with pytest.raises(ArtifactDamaged):
                store.stream(stored, start, length)

    def test_a_different_size_is_found_before_the_first_byte(self, store: ArtifactStore, tmp_path: Path) -> None:
        stored = put(store, tmp_path, "a", LONG)
        for content in (LONG[:-1], LONG + b"x", b"", None):
            store.delete("a") if content is None else put(store, tmp_path, "a", content)
            for use in (store.stream, lambda file: store.check_whole([file]), lambda file: store.stream(file, 5, 1)):
                with pytest.raises(ArtifactDamaged):
                    use(stored)

    def test_a_prefix_is_not_a_file(self, store: ArtifactStore, tmp_path: Path) -> None:
        stored = put(store, tmp_path, "runs/1/a", b"x")
        assert not store.exists("runs/1")
        with pytest.raises(ArtifactDamaged):
            store.read("runs/1", stored.sha256)


class TestSharing:
    def test_threads_share_a_store(self, store: ArtifactStore, tmp_path: Path) -> None:
        start = threading.Barrier(8)

        def use(number: int) -> bool:
            content = str(number).encode() * 1000
            start.wait()
            stored = put(store, tmp_path / str(number), f"runs/{number}/a", content)
            return store.read(stored.key, stored.sha256) == content

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(use, range(8)))

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_store_works_after_a_fork(self, store: ArtifactStore, tmp_path: Path) -> None:
        stored = put(store, tmp_path, "a", b"content")
        forked = multiprocessing.get_context("fork").Process(target=store.read, args=("a", stored.sha256))
        forked.start()
        forked.join(30)
        assert forked.exitcode == 0
        assert store.read("a", stored.sha256) == b"content"

    def test_concurrent_writers_leave_one_complete_file(self, store: ArtifactStore, tmp_path: Path) -> None:
        contents = [bytes([number]) * 50_000 for number in range(4)]
        hashes = {put(store, tmp_path, "a", content).sha256: content for content in contents}
        with ThreadPoolExecutor(4) as pool:
            writing = [
                pool.submit(put, store, tmp_path / str(number), "a", content)
                for number, content in enumerate(contents * 3)
            ]
            assert all(put_file.result().sha256 in hashes for put_file in writing)
        found = [hash for hash in hashes if _holds(store, "a", hash)]
        assert len(found) == 1 and list(store.names("a")) == []


def _holds(store: ArtifactStore, key: str, sha256: str) -> bool:
    try:
        store.read(key, sha256)
    except ArtifactDamaged:
        return False
    return True


class TestCheck:
    def test_a_check_removes_its_file(self, store: ArtifactStore) -> None:
        store.check()
        store.check()
        assert list(store.names("probes")) == []

    def test_free_bytes_of_a_directory_are_known(self, store: ArtifactStore, url: str) -> None:
        free = store.free_bytes()
        assert free is None if url.startswith("s3:") else free is not None and free > 0


class TestDirectoryStore:
    def test_a_failed_write_keeps_the_earlier_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = ArtifactStore(f"file://{tmp_path / 'store'}")
        first = put(store, tmp_path, "runs/1/a", b"first")

        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(StoreUnavailable, match="No space left") as caught:
                put(store, tmp_path, "runs/1/a", b"second")
            assert caught.value.errno == errno.ENOSPC
        assert store.read("runs/1/a", first.sha256) == b"first"
        assert [path.name for path in (tmp_path / "store/runs/1").iterdir()] == ["a"]

    def test_a_missing_directory_is_not_damage(self, tmp_path: Path) -> None:
        store = ArtifactStore(f"file://{tmp_path / 'store'}")
        stored = put(store, tmp_path, "a", b"x")
        (tmp_path / "store").rename(tmp_path / "away")
        with pytest.raises(StoreUnavailable, match="G2RPO_STORAGE_URL"):
            store.read("a", stored.sha256)
        assert list(store.names("runs")) == []

    def test_a_check_of_an_unwritable_directory_fails(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("not a directory")
        with pytest.raises(StoreUnavailable, match="test file"):
            ArtifactStore(f"file://{tmp_path / 'file' / 'store'}").check()


class TestBucketStore:
    def test_a_missing_bucket_is_not_damage(self, bucket_url: str, tmp_path: Path) -> None:
        store = ArtifactStore("s3://no-such-bucket/prefix")
        uses: list[Callable[[], object]] = [
            store.check,
            lambda: put(store, tmp_path, "a", b"x"),
            lambda: store.read("a", ""),
            lambda: store.exists("a"),
            lambda: store.names("runs"),
        ]
        for use in uses:
            with pytest.raises(StoreUnavailable, match="G2RPO_STORAGE_URL"):
                use()

    def test_an_unreachable_server_is_reported(self, bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        store = ArtifactStore(bucket_url)
        with pytest.raises(StoreUnavailable, match="connect"):
            store.exists("a")

    def test_an_incomplete_url_is_refused(self) -> None:
        with pytest.raises(ValueError, match="has no bucket"):
            ArtifactStore("s3://")
        with pytest.raises(ValueError, match="not known"):
            ArtifactStore("nonsense://bucket")
