"""A catalog file that changes while the service is running."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.contracts.catalog_file import CatalogError
from service.core.catalog_loader import CatalogLoader

MINE = "extends: bundled\nprompt_sets: [{name: mine, kind: file, path: /prompts.txt}]\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "catalog.yaml"
    written.write_text("extends: bundled\n")
    return written


def load(file: Path) -> CatalogLoader:
    return CatalogLoader(file, check_seconds=0)


def test_a_changed_file_is_reloaded(file: Path) -> None:
    loader = load(file)
    file.write_text(MINE)
    assert loader.current().prompt_set("mine").path == Path("/prompts.txt")
    assert loader.problem is None


def test_an_unchanged_file_is_not_read_again(file: Path) -> None:
    loader = load(file)
    assert loader.current() is loader.current()


def test_an_invalid_file_keeps_the_last_catalog_until_it_is_fixed(file: Path) -> None:
    loader = load(file)
    before = loader.current()
    file.write_text("extends: bundled\nmodels: [{}]\n")
    assert loader.current() is before
    assert loader.problem is not None and ".name: Missing field" in loader.problem
    file.write_text(MINE)
    assert loader.current().prompt_set("mine") and loader.problem is None


def test_a_missing_file_keeps_the_last_catalog(file: Path) -> None:
    loader = load(file)
    before = loader.current()
    file.unlink()
    assert loader.current() is before
    assert loader.problem is not None and "No such file" in loader.problem


def test_an_invalid_file_at_startup_is_an_error(file: Path) -> None:
    file.write_text("models: 1")
    with pytest.raises(CatalogError):
        load(file)


def test_readiness_reports_an_invalid_file_as_a_warning(app: FastAPI, client: TestClient, file: Path) -> None:
    app.state.catalog = load(file)
    file.write_text("extends: nothing\n")
    checks = {one["name"]: one for one in client.get("/readyz").json()["checks"]}
    assert checks["catalog"]["ok"] and "extends: 'nothing'" in checks["catalog"]["detail"]
    assert "g2rpo catalog check" in checks["catalog"]["hint"]


def test_requests_use_the_changed_file(app: FastAPI, client: TestClient, file: Path) -> None:
    app.state.catalog = load(file)
    file.write_text(MINE)
    assert "mine" in [one["name"] for one in client.get("/catalog").json()["prompt_sets"]]
