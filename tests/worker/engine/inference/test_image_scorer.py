"""Image scoring outside a run: every missing value has the cause reported by its reward."""

import json
from pathlib import Path

import pytest
import torch

from tests.worker.engine.evaluation.judge_server import JudgeRequest, Reply, Serve, completion
from worker.engine.inference.image_scorer import ImageScorer
from worker.engine.inference.model_cache import ModelCache
from worker.engine.models.images import png

SERVERS = """
extends: bundled
rewards:
- {{name: theirs, kind: {kind}, url: "{url}", model: theirs, tries: 1, timeout_seconds: 1, {more}}}
"""


def causes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, **entry: str) -> list[str | None]:
    """The cause of each missing value of a server's reward, or None if the value is present."""
    (tmp_path / "catalog.yaml").write_text(SERVERS.format(**entry))
    monkeypatch.setenv("G2RPO_CATALOG", str(tmp_path / "catalog.yaml"))
    images = [png(torch.rand(3, 16, 16)) for _ in range(number)]
    scored = ImageScorer("cpu", ModelCache()).score(["theirs"], images, [f"prompt {n}" for n in range(number)])
    assert all((value.status == "ok") == (value.cause is None) for [value] in scored)
    return [value.cause for [value] in scored]


@pytest.mark.parametrize(
    ("kind", "reply", "reported"),
    [
        ("http", Reply(500, b"out of memory"), "HTTP 500"),
        ("http", Reply(401, b"who are you"), "HTTP 401"),
        ("http", Reply(hang=True), "ReadTimeout"),
        ("http", Reply(body=b"not JSON"), "no `values`"),
        ("http", Reply(body=b'{"values": [null]}'), "the server returned null"),
        ("unified_reward", completion("I cannot help with that."), "missing score"),
    ],
    ids=["500", "401", "timeout", "no-json", "null", "refusal"],
)
def test_server_error_is_quoted(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reply: Reply, reported: str
) -> None:
    url = serve(lambda _: reply).url
    [cause] = causes(tmp_path, monkeypatch, 1, kind=kind, url=url, more="")
    assert cause is not None and reported in cause


def test_each_image_has_its_own_cause(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(request: JudgeRequest) -> Reply:
        return {
            "prompt 0": Reply(400, b"not this one"),
            "prompt 1": Reply(body=json.dumps({"values": [0.5]}).encode()),
            "prompt 2": Reply(503, b"later"),
        }[request.body["prompts"][0]]

    more = "batch_size: 1, concurrency: 1"
    refused, valued, away = causes(tmp_path, monkeypatch, 3, kind="http", url=serve(plan).url, more=more)
    assert refused is not None and "HTTP 400" in refused
    assert valued is None
    assert away is not None and "HTTP 503" in away
