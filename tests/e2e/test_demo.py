"""A small `g2rpo demo`: the command starts the service, writes the figures, and leaves no process running.

`tests/integration/test_demo.py` runs the demo on a running service.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

SETTINGS = [
    "sampling.steps=3",
    "algorithm.granularities=[1]",
    "algorithm.sde_steps=[0]",
    "algorithm.group_size=2",
    "training.max_steps=2",
    "training.prompts_per_step=1",
    "heldout.every=1",
    "heldout.pairs=4",
    "heldout.final_pairs=8",
]
OWN = {name: value for name, value in os.environ.items() if name not in ("G2RPO_DATABASE_URL", "G2RPO_BROKER_URL")}
OWN |= {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def demo(out: Path, *settings: str) -> "subprocess.CompletedProcess[str]":
    words = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
    command = [sys.executable, "-m", "service.cli", "demo", "--seed", "5", "--out", str(out), *words]
    return subprocess.run(command, capture_output=True, text=True, env=OWN)


def processes_of(out: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(out) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_the_demo_prints_measurements_and_stops_its_processes(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = demo(out)

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "report.json").read_text())
    for figure in ("curves.png", "before_after.png"):
        assert (out / figure).read_bytes().startswith(b"\x89PNG")
    assert report["seeds"]["training"] == 5
    assert report["nfe"]["counted"] == report["nfe"]["planned"]
    for reward, one in report["heldout"].items():
        assert one["interval95"][0] <= one["difference"] <= one["interval95"][1]
        assert one["pairs"] == 8
        assert reward in done.stdout and f"{one['difference']:+.4f}" in done.stdout
    assert report["processor_seconds"]["child"] > 0 < report["processor_seconds"]["outside"]
    assert 0 < report["peak_memory_bytes"] < 6 * 2**30
    assert len(report["prompts"]) == 6
    assert processes_of(out) == []


def test_a_run_that_fails_is_reported_with_its_cause(tmp_path: Path) -> None:
    done = demo(tmp_path / "demo", "prompts={items: [a xyzzy circle]}")

    assert done.returncode == 1
    assert "xyzzy" in done.stdout
    assert str(tmp_path / "demo" / ".data" / "logs") in done.stdout
    assert not (tmp_path / "demo" / "report.json").exists()
