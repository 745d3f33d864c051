"""The code blocks of the client page run in order, in one namespace."""

import re
from pathlib import Path
from typing import Any

import pytest

from service.local.stack import Stack

pytestmark = pytest.mark.long

PAGE = Path(__file__).parents[2] / "docs" / "get-started" / "python-client.md"
ADDRESS = "http://127.0.0.1:8000"


def test_code_blocks_of_the_page_run(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert len(blocks) >= 8 and text.count(f'"{ADDRESS}"') == 1
    namespace: dict[str, Any] = {}
    for block in blocks:
        # Prepend blank lines, so that a traceback shows the line number of the page.
        code = "\n" * text.count("\n", 0, block.start(1)) + block[1].replace(ADDRESS, stack.url)
        exec(compile(code, PAGE, "exec"), namespace)

    assert namespace["longer"].progress.step == 4
    assert namespace["imported"].name == "came back"
    assert all(value.status == "ok" for one in namespace["scored"].images for value in one.values)
    assert list((tmp_path / "taken").glob("*/README.md"))
    assert len(namespace["spread"]) == 4
    assert len(namespace["finished"]) >= 2 and namespace["judged"].judged == 5
    assert (tmp_path / "figure.svg").read_bytes().startswith(b"<?xml")
    assert all(image.startswith(b"\x89PNG") for image in namespace["images"]) and namespace["images"]
    for made in ("curves.png", "leaderboard.png", "grid.png", "0.png", "3.png"):
        assert (tmp_path / made).read_bytes().startswith(b"\x89PNG")
