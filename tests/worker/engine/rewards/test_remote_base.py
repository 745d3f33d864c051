"""Remote rewards on a real connection: requests, accepted responses, and failures."""

import base64
import io
import json
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from service.contracts.catalog import RewardEntry
from tests.worker.engine.evaluation.judge_server import JudgeRequest, Reply, Serve, completion
from worker.engine.remote.http_client import Misconfigured
from worker.engine.rewards import load_reward
from worker.engine.rewards.base import Answers
from worker.engine.rewards.custom_http import HttpReward
from worker.engine.rewards.remote_base import FAILURES, PAUSE_SECONDS, CircuitBreaker
from worker.engine.rewards.unified_reward import UnifiedReward, template

AXES = "Alignment Score (1-5): 4\nCoherence Score (1-5): 3\nStyle Score (1-5): 2"
CPU = torch.device("cpu")


def images(number: int) -> Tensor:
    return torch.rand(number, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def entry(kind: str, url: str, **changes: Any) -> RewardEntry:
    values = {"name": "remote", "kind": kind, "url": url, "model": "UnifiedReward", "timeout_seconds": 5}
    return RewardEntry.model_validate(values | changes)


def http(url: str, **changes: Any) -> HttpReward:
    return HttpReward(entry("http", url, **changes), first_wait=0.001)


def unified(url: str, **changes: Any) -> UnifiedReward:
    return UnifiedReward(entry("unified_reward", url, **changes), first_wait=0.001)


def values(*given: object) -> Reply:
    return Reply(body=json.dumps({"values": given}).encode())


def answers(reward: HttpReward | UnifiedReward, number: int) -> list[Answers]:
    return [future.result() for future in reward.begin(images(number), [f"prompt {n}" for n in range(number)])]


def bright(request: JudgeRequest) -> Reply:
    shown = [Image.open(io.BytesIO(base64.b64decode(one))) for one in request.body["images"]]
    return values(*(sum(one.convert("L").tobytes()) for one in shown))


class TestHttp:
    def test_request_is_the_documented_one_and_values_keep_their_order(self, serve: Serve) -> None:
        server = serve(bright)
        reward = load_reward(entry("http", server.url, batch_size=3), CPU)
        scored = reward.score(images(7), [f"prompt {n}" for n in range(7)])
        sent = sorted((request.body for request in server.requests), key=lambda body: body["prompts"])
        assert [body["prompts"] for body in sent] == [
            ["prompt 0", "prompt 1", "prompt 2"],
            ["prompt 3", "prompt 4", "prompt 5"],
            ["prompt 6"],
        ]
        assert {request.path for request in server.requests} == {"/v1/score"}
        assert sent[0].keys() == {"version", "model", "prompts", "images"} and sent[0]["version"] == 1
        first = Image.open(io.BytesIO(base64.b64decode(sent[0]["images"][0])))
        assert (first.format, first.mode, first.size) == ("PNG", "RGB", (16, 16))
        own = [HttpReward(reward.entry).score(images(7)[n : n + 1], [f"prompt {n}"]).item() for n in range(7)]
        assert scored.tolist() == own

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (None, "null"),
            *((value, "not_a_number") for value in ("0.5", True, [1], 1e300, float("nan"), float("inf"), 10**400)),
        ],
    )
    def test_nonfinite_value_does_not_affect_others(self, serve: Serve, value: object, kind: str) -> None:
        (answer,) = answers(http(serve(lambda _: values(0.5, value, 2)).url), 3)
        assert (answer.values[0], answer.values[2]) == (0.5, 2)
        assert answer.values[1] != answer.values[1] and answer.missing == {kind: 1}

    @pytest.mark.parametrize(
        "reply",
        [
            values(1.0),
            values(1.0, 1.0, 1.0),
            Reply(body=b"{}"),
            Reply(body=b"[]"),
            Reply(body=b"not JSON"),
            Reply(body=b'{"values": "ab"}'),
            Reply(500, b"out of memory"),
            Reply(429, b"slow down"),
            Reply(200, values(1.0, 2.0).body, cut=5),
        ],
        ids=["few", "many", "nothing", "a-list", "no-json", "a-text", "500", "429", "cut"],
    )
    def test_invalid_response_is_retried_and_then_missing(self, serve: Serve, reply: Reply) -> None:
        server = serve(lambda _: reply)
        (answer,) = answers(http(server.url, tries=3), 2)
        assert len(server.requests) == 3 and answer.missing == {"no_answer": 2} and answer.cause
        server = serve(lambda request: reply if request.number < 2 else values(1, 2))
        assert answers(http(server.url, tries=3), 2)[0].values == (1, 2)

    def test_hanging_server_times_out(self, serve: Serve) -> None:
        (answer,) = answers(http(serve(lambda _: Reply(hang=True)).url, tries=1, timeout_seconds=0.05), 2)
        assert answer.missing == {"no_answer": 2} and "ReadTimeout" in answer.cause

    @pytest.mark.parametrize(("status", "kind"), [(400, "refused"), (422, "refused"), (404, "no_answer")])
    def test_permanent_error_is_not_retried(self, serve: Serve, status: int, kind: str) -> None:
        server = serve(lambda _: Reply(status, b"no"))
        (answer,) = answers(http(server.url), 2)
        assert len(server.requests) == 1 and answer.missing == {kind: 2} and f"HTTP {status}" in answer.cause

    def test_unavailable_server_gets_no_more_requests(self, serve: Serve) -> None:
        server = serve(lambda _: Reply(500))
        reported = answers(http(server.url, batch_size=1, tries=1, concurrency=1), FAILURES + 3)
        assert len(server.requests) == FAILURES
        assert [*reported[-1].missing] == ["not_asked"] and "HTTP 500" in reported[-1].cause

    def test_concurrent_requests_are_limited(self, serve: Serve) -> None:
        server = serve(bright)
        answers(http(server.url, batch_size=1, concurrency=2), 12)
        assert len(server.requests) == 12 and server.connections <= 2

    def test_missing_token_sends_no_request(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REWARD_KEY", raising=False)
        with pytest.raises(Misconfigured, match="reward 'remote' needs the environment variable REWARD_KEY"):
            http(serve().url, token_env="REWARD_KEY")


class TestUnifiedReward:
    @pytest.mark.parametrize(("form", "reported"), [("axes", AXES), ("final_score", "cat (animal): 1\nFinal Score: 3")])
    def test_request_is_the_published_one(self, serve: Serve, form: str, reported: str) -> None:
        server = serve(lambda _: completion(reported))
        reward = unified(server.url, form=form)
        assert reward.score(images(1), ["a {prompt} of\ncats"]).tolist() == [3.0]
        (request,) = server.requests
        assert request.path == "/v1/chat/completions"
        assert (request.body["model"], request.body["temperature"]) == ("UnifiedReward", 0)
        assert [part["type"] for part in request.content] == ["image_url", "text"]
        assert request.image[0] == "image/jpeg"
        assert request.text.endswith("Text Caption: [a {prompt} of\ncats]")
        assert request.text == template(form).replace("{prompt}", "a {prompt} of\ncats")

    def test_png_is_sent_where_the_catalog_says_so(self, serve: Serve) -> None:
        server = serve(lambda _: completion(AXES))
        unified(server.url, image_format="png").score(images(1), ["a cat"])
        assert server.requests[0].image[0] == "image/png"

    def test_weights_are_those_of_the_entry(self, serve: Serve) -> None:
        reward = unified(serve(lambda _: completion(AXES)).url, axes={"alignment": 3, "style": 1})
        assert reward.score(images(2), ["a", "b"]).tolist() == [3.5, 3.5]
        assert reward.identity()["axes"] == "alignment 3, style 1"

    @pytest.mark.parametrize(
        ("reply", "kind"),
        [
            (completion(AXES, "length"), "truncated"),
            (completion(None), "no_words"),
            (completion("I cannot help with that."), "missing_score"),
            (completion(AXES.replace("3", "4/5")), "not_a_number"),
        ],
    )
    def test_unreadable_response_is_a_counted_failure(self, serve: Serve, reply: Reply, kind: str) -> None:
        server = serve(lambda _: reply)
        (answer,) = answers(unified(server.url, tries=2), 1)
        assert len(server.requests) == 2 and answer.missing == {kind: 1} and answer.values[0] != answer.values[0]

    def test_unread_answers_do_not_make_a_server_count_as_down(self, serve: Serve) -> None:
        server = serve(lambda _: completion("no"))
        answers(unified(server.url, tries=1, concurrency=1), FAILURES + 3)
        assert len(server.requests) == FAILURES + 3

    def test_templates_are_those_that_were_published(self) -> None:
        reported = {form: unified("http://localhost/v1", form=form).identity()["template_sha256"] for form in FORMS}
        assert reported == FORMS


FORMS = {
    "axes": "75d52d3ae771f89b682db3b74cdaca1c7bde373a39162bc1c9dabd63cdc9b851",
    "final_score": "f56f919ce3bc6aab3c173a5f836defe195e17e9614753e8b4c3dc2405bd4975b",
}


def test_single_request_probes_the_server_after_a_pause() -> None:
    now = 0.0
    breaker = CircuitBreaker(clock=lambda: now)
    for _ in range(FAILURES):
        assert breaker.pause_cause() is None
        breaker.failed("HTTP 503")
    assert "HTTP 503" in str(breaker.pause_cause())
    now = PAUSE_SECONDS
    assert (breaker.pause_cause(), breaker.pause_cause() is None) == (None, False)
    breaker.answered()
    assert breaker.pause_cause() is None


@pytest.mark.parametrize("axes", [{}, {"style": 0}, {"style": 1, "alignment": -1}, {"beauty": 1}])
def test_axes_need_weights(axes: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="axes"):
        entry("unified_reward", "http://localhost/v1", axes=axes)
