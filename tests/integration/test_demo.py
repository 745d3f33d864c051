"""The part of `g2rpo demo` after the service has started. The whole command is in `tests/e2e/test_demo.py`."""

from pathlib import Path
from typing import Any

import pytest

from service.cli.demo import demonstrate
from service.client import Client
from service.contracts.status import JobStatus
from service.local.stack import Stack


def test_the_demo_reports_measurements_and_writes_figures(
    stack: Stack, client: Client, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds: dict[str, float] = {}
    training = {**tiny["training"], "seed": 5}
    report = demonstrate(client, {**tiny, "training": training}, tmp_path, seconds)

    for figure in ("curves.png", "before_after.png"):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
    assert report["seeds"]["training"] == 5
    assert report["nfe"]["counted"] == report["nfe"]["planned"]
    for one in report["heldout"].values():
        assert one["interval95"][0] <= one["difference"] <= one["interval95"][1]
        assert one["pairs"] == 8
    assert client.run(report["run"]).status is JobStatus.SUCCEEDED
    assert len(report["prompts"]) == 2  # the number of images that a held-out evaluation stores
    assert set(seconds) == {"run", "generate", "figures"}
    assert stack.url in capsys.readouterr().out
