"""`g2rpo evaluations answers|export|compare|gallery`, against a running service."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image
from typer.testing import CliRunner, Result

from service.cli import app as commands
from service.client import ApiError, Client
from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.status import JobStatus
from tests.service.unigenbench import EN, benchmark, dimensions_of


@pytest.fixture
def served(app: FastAPI, serve: Callable[..., Any]) -> Iterator[str]:
    """The URL of the service."""
    with serve(app) as url:
        yield url


@pytest.fixture
def g2rpo(served: str) -> Callable[..., Result]:
    """Runs a command against the service."""
    environment = {"G2RPO_URL": served, "COLUMNS": "300", "TERM": "dumb"}
    return lambda *words: CliRunner().invoke(commands, ["evaluations", *map(str, words)], env=environment)


def evaluated(records: Any, directory: Path, met: int, **spec: Any) -> Any:
    scores = {
        (prompt.index, image_index): [met] * len(prompt.points)
        for prompt in benchmark().prompts
        for image_index in (0, 1)
    }
    row = records.evaluation(benchmark(), answers=scores | {(3, 1): Failure.NO_SCORES}, **spec)
    Image.new("RGB", (32, 32)).save(directory / "image.png")
    for index, image_index in scores:
        records.evaluation_image(row, index, image_index, (directory / "image.png").read_bytes(), clip_score=0.5 + met)
    return row


def test_answers_are_listed(g2rpo: Any, records: Any, tmp_path: Path) -> None:
    row = evaluated(records, tmp_path, 1)
    found = g2rpo("answers", row.id, "--dimension", "Style", "--met", "--words")
    first, *others = dimensions_of(0)
    lines = [f"  + {name}: what {place} is" for place, name in enumerate([first, *others])]
    assert found.output.splitlines()[:5] == [
        f"0_0.png  {benchmark().prompts[0].text}",
        *lines,
        "<score>[1, 1, 1]</score>",
    ]
    assert g2rpo("answers", row.id, "--unmet").output == ""
    failed = g2rpo("answers", row.id, "--failure", "no_scores").output.splitlines()
    assert "no_scores" in failed[0] and failed[1].startswith("  ? ")
    assert len(g2rpo("answers", row.id, "--limit", 2, "--all-tries").output.splitlines()) == 8


def test_the_official_files_are_written_completely(g2rpo: Any, records: Any, tmp_path: Path) -> None:
    row = evaluated(records, tmp_path, 1)
    (out := tmp_path / "out").mkdir()
    table, counts = out / "result.csv", out / "result.json"
    assert g2rpo("export", row.id, "--out", table).exit_code == g2rpo("export", row.id, "--out", counts).exit_code == 0
    with table.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 20
    assert json.loads(counts.read_text())["primary_dimensions"]["Style"] == {"correct": 2, "total": 2, "accuracy": 1.0}
    refused = g2rpo("export", records.evaluation(benchmark(), JobStatus.RUNNING).id, "--out", out / "none.csv")
    assert refused.exit_code == 2 and "is running" in refused.output
    assert g2rpo("export", row.id, "--out", out / "result.txt").exit_code == 2
    assert sorted(path.name for path in out.iterdir()) == ["result.csv", "result.json"]


def test_two_evaluations_are_compared(g2rpo: Any, records: Any, tmp_path: Path) -> None:
    rewards = {"rewards": ["clip_score"]}
    first = evaluated(records, tmp_path, 0, **rewards)
    second = evaluated(records, tmp_path, 1, name="aligned", steps=4, **rewards)
    found = g2rpo("compare", first.id, second.id)
    assert "aligned minus shapes-flux, on unigenbench-en, judge perception" in found.output
    lines = {line.split()[0]: line.split() for line in found.output.splitlines() if line.strip()}
    assert lines["overall"] == ["overall", "+100", "points", "+100", "to", "+100", "10", "0", "0"]
    reward = lines["clip_score"]
    assert reward[:2] == ["clip_score", "+1"] and reward[-3:] == ["10", "0", "0"]
    assert "warning: steps differs: 8 in the first, 4 in the second" in found.output


def test_a_gallery_is_written(g2rpo: Any, records: Any, tmp_path: Path) -> None:
    first, second = evaluated(records, tmp_path, 0), evaluated(records, tmp_path, 1)
    page, image = tmp_path / "gallery.html", tmp_path / "gallery.png"
    assert g2rpo("gallery", first.id, "--with", second.id, "--count", 2, "--out", page).exit_code == 0
    assert page.read_text().count("data:image/png") == 4
    assert g2rpo("gallery", first.id, "--index", 0, "--index", 4, "--images", 1, "--out", image).exit_code == 0
    with Image.open(image) as opened:
        assert opened.format == "PNG"
    assert g2rpo("gallery", first.id, "--out", tmp_path / "gallery.gif").exit_code == 2


def test_the_client_returns_images_and_raises_the_errors_of_the_service(
    served: str, records: Any, tmp_path: Path
) -> None:
    row = evaluated(records, tmp_path, 1)
    with Client(served) as client:
        images = list(client.evaluation_images(row.id))
        assert len(images) == 20 and len(list(client.evaluation_images(row.id, 3))) == 2
        assert client.fetch_image(images[0].url) == (tmp_path / "image.png").read_bytes()
        assert len(list(client.answers(row.id))) == 20
        with pytest.raises(ApiError, match="not found"):
            client.gallery(row.id, beside=["00000000-0000-7000-8000-000000000001"])
        with pytest.raises(ValueError, match="must end in"):
            client.export_evaluation(row.id, tmp_path / "x.txt")
        own = client.leaderboard(EN.name).rankings[-1].rows
        assert [one.evaluation_id for one in own] == [row.id]
