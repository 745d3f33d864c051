"""The statistics of a worker."""

import os
import threading
from pathlib import Path

import pytest

from worker.monitoring import devices
from worker.monitoring.stats import GpuMemory, Stats, gather


def executable(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


class TestStats:
    def test_threads_count_together(self) -> None:
        stats = Stats()
        threads = [threading.Thread(target=lambda: [stats.add("steps") for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert stats.snapshot() == {"steps": 4000}

    def test_backlog_lasts_until_it_is_empty(self) -> None:
        stats = Stats()
        stats.set_backlog("ingestion_lag", 500)
        first = stats.snapshot()
        stats.set_backlog("ingestion_lag", 900)
        second = stats.snapshot()
        stats.set_backlog("ingestion_lag", 0)

        assert (first["ingestion_lag_bytes"], second["ingestion_lag_bytes"]) == (500, 900)
        assert 0 < first["ingestion_lag_seconds"] < second["ingestion_lag_seconds"]
        assert stats.snapshot() == {"ingestion_lag_bytes": 0, "ingestion_lag_seconds": 0}


class TestGpuMemory:
    def test_memory_is_in_bytes_by_gpu(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        program = executable(tmp_path / "smi", 'printf "0, 100, 81559\\n1, [N/A], [N/A]\\n"')
        assert GpuMemory(program).read() == {
            "gpu_memory_used_bytes.0": 100 * 2**20,
            "gpu_memory_total_bytes.0": 81559 * 2**20,
        }

    def test_only_visible_gpus_are_queried(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = executable(tmp_path / "smi", f'echo "$@" > {tmp_path}/asked')
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        GpuMemory(program).read()
        assert "--id=1" in (tmp_path / "asked").read_text().split()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        (tmp_path / "asked").unlink()
        assert GpuMemory(program).read() == {}
        assert not (tmp_path / "asked").exists()

    def test_missing_or_failing_driver_gives_nothing(self, tmp_path: Path) -> None:
        assert GpuMemory(executable(tmp_path / "smi", "exit 9")).read() == {}
        assert GpuMemory(str(tmp_path / "nowhere")).read() == {}

    def test_hanging_driver_does_not_block(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        memory = GpuMemory(executable(tmp_path / "smi", f"read line < {gate}"))
        assert memory.read() == {}
        assert memory.read() == {}
        gate.write_text("answer\n")  # the process is terminated


class TestDevices:
    @pytest.fixture
    def two_cards(self, tmp_path: Path) -> Path:
        for name in ("0000:01:00.0", "0000:02:00.0"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "information").write_text("Model: \t NVIDIA H100\nIRQ: 7\n")
        return tmp_path

    @pytest.mark.parametrize(("visible", "number"), [(None, 2), ("1", 1), ("0,1", 2), ("GPU-a,GPU-b,GPU-c", 2)])
    def test_visible_gpus_are_counted(
        self, visible: str | None, number: int, two_cards: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert devices.count(two_cards) == number
        assert devices.gpus(two_cards) == ["NVIDIA H100"] * 2

    @pytest.mark.parametrize("visible", ["", "-1"])
    def test_without_gpus_cores_count(self, visible: str, two_cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert devices.count(two_cards) == len(os.sched_getaffinity(0))

    def test_heartbeat_has_the_number_of_devices(self, tmp_path: Path) -> None:
        assert gather(tmp_path)["devices"] == devices.count()


def test_free_disk_space_is_known_before_the_directory_exists(tmp_path: Path) -> None:
    assert gather(tmp_path / "not" / "yet")["data_free_bytes"] > 0


def test_memory_is_limited_by_the_container(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("max\n")
    (tmp_path / "limit").write_text(f"{2**20}\n")
    assert devices.memory((tmp_path / "none", tmp_path / "limit")) == 2**20
    assert devices.memory((tmp_path / "none", tmp_path / "missing")) > 2**20
