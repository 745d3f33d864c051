"""`g2rpo catalog check`: validity of a file, and presence of its weights and prompts."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app

RUNNER = CliRunner()


def test_present_and_missing_files_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    file = tmp_path / "catalog.yaml"
    file.write_text(f"""
extends: bundled
rewards:
- {{name: clip_score, kind: clip, source: {{directory: {tmp_path}/weights}}}}
- {{name: away, kind: clip, source: {{directory: {tmp_path}/nothing}}}}
- {{name: far, kind: clip, source: {{hub: o/n, revision: abc, token_env: FAR_TOKEN}}}}
- {{name: asked, kind: http, url: "http://127.0.0.1:1/", token_env: ASKED_TOKEN}}
prompt_sets: [{{name: mine, kind: file, path: {tmp_path}/prompts.txt}}]
""")
    monkeypatch.setenv("FAR_TOKEN", "a-secret-value")
    monkeypatch.delenv("ASKED_TOKEN", raising=False)
    result = RUNNER.invoke(app, ["catalog", "check", str(file)])
    assert result.exit_code == 0, result.output
    for line in (
        "overrides the bundled rewards: clip_score",
        "✓ model shapes-flux: included in the worker (shapes-flux)",
        f"✓ reward clip_score: {tmp_path}/weights exists",
        f"! reward away: {tmp_path}/nothing does not exist on this machine",
        "✓ reward far: hub repository o/n, abc (not checked)",
        "✓ reward far: FAR_TOKEN is set",
        "✓ reward asked: http://127.0.0.1:1/ (not checked)",
        "! reward asked: ASKED_TOKEN is not set",
        f"! prompt set mine: {tmp_path}/prompts.txt does not exist on this machine",
    ):
        assert line in result.output.splitlines(), result.output
    assert "a-secret-value" not in result.output


@pytest.mark.parametrize(("content", "message"), [("models: 1", "models: Invalid value 1"), (None, "No such file")])
def test_an_invalid_file_is_an_error(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "catalog.yaml"
    if content is not None:
        file.write_text(content)
    result = RUNNER.invoke(app, ["catalog", "check", str(file)])
    assert result.exit_code == 1 and message in result.output and str(file) in result.output


def test_without_a_file_the_bundled_catalog_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("G2RPO_CATALOG", raising=False)
    result = RUNNER.invoke(app, ["catalog", "check"])
    assert result.exit_code == 0 and "contracts/catalog.yaml: " in result.output.splitlines()[0]
