"""The judge that uses the OpenAI chat protocol, on a real connection."""

import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.contracts.benchmarks.judge_answers import Failure
from tests.worker.engine.evaluation.judge_server import JudgeRequest, Reply, Serve, completion, valid_reply
from tests.worker.engine.evaluation.setting import benchmark, entry
from worker.engine.evaluation.judges.base import JudgeClosed, JudgeFailed
from worker.engine.evaluation.judges.openai import MAX_OWN_FAULTS, OpenAIJudge
from worker.engine.remote.http_client import MAX_BYTES, MAX_CHARACTERS

PROMPT = benchmark().prompts[0]
TOKEN = "sk-not-for-anybody-0123456789"


def png(size: int = 16, mode: str = "RGB") -> bytes:
    """An image of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, len(mode)), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, format="PNG")
    return buffer.getvalue()


def judge(url: str, **changes: Any) -> OpenAIJudge:
    """A judge with short pauses between requests."""
    return OpenAIJudge(entry(url, **changes), benchmark().judge, first_wait=0.001)


def first(*replies: Reply) -> Callable[[JudgeRequest], Reply]:
    """Return these replies in order, then valid answers."""
    return lambda request: replies[request.number] if request.number < len(replies) else valid_reply(request)


class TestRequest:
    def test_request_is_the_documented_one(self, serve: Serve) -> None:
        server = serve()
        reported = judge(server.url, max_tokens=77).ask(PROMPT, png())
        assert (reported.verdict.scores, reported.verdict.failure, reported.error) == ((1, 0, 1), None, "")
        assert reported.text is not None and "<score>[1, 0, 1]</score>" in reported.text
        (request,) = server.requests
        assert request.path == "/v1/chat/completions"
        assert request.body.keys() == {"model", "messages", "temperature", "max_tokens"}
        assert (request.body["model"], request.body["temperature"], request.body["max_tokens"]) == ("Looker-1", 0, 77)
        assert request.text == benchmark().judge.fill(PROMPT)
        assert "Authorization" not in request.headers

    @pytest.mark.parametrize(("image_first", "order"), [(True, ["image_url", "text"]), (False, ["text", "image_url"])])
    def test_content_order_follows_the_entry(self, serve: Serve, image_first: bool, order: list[str]) -> None:
        server = serve()
        judge(server.url, image_first=image_first).ask(PROMPT, png())
        assert [part["type"] for part in server.requests[0].content] == order

    def test_request_for_a_server_with_other_parameters(self, serve: Serve) -> None:
        server = serve()
        judge(server.url, max_tokens=77, max_tokens_field="max_completion_tokens", temperature=None).ask(PROMPT, png())
        judge(server.url, temperature=0.6).ask(PROMPT, png())
        first, second = (request.body for request in server.requests)
        assert first.keys() == {"model", "messages", "max_completion_tokens"} and first["max_completion_tokens"] == 77
        assert second["temperature"] == 0.6

    def test_png_is_sent_unchanged(self, serve: Serve) -> None:
        server = serve()
        judge(server.url, image_format="png").ask(PROMPT, png())
        assert server.requests[0].image == ("image/png", png())

    @pytest.mark.parametrize("mode", ["RGB", "RGBA"])
    def test_jpeg_equals_that_of_the_official_script(self, serve: Serve, mode: str) -> None:
        server = serve()
        judge(server.url).ask(PROMPT, png(mode=mode))
        expected = io.BytesIO()
        Image.open(io.BytesIO(png(mode=mode))).convert("RGB").save(expected, format="JPEG", quality=95)
        assert server.requests[0].image == ("image/jpeg", expected.getvalue())

    def test_connections_are_reused(self, serve: Serve) -> None:
        server = serve()
        asking = judge(server.url)
        for _ in range(5):
            asking.ask(PROMPT, png())
        assert server.connections == 1

    def test_base_url_may_end_with_a_slash(self, serve: Serve) -> None:
        server = serve()
        judge(f"{server.url}/").ask(PROMPT, png())
        assert server.requests[0].path == "/v1/chat/completions"


class TestToken:
    def test_token_is_sent(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOOKER_KEY", f" {TOKEN}\n")
        server = serve()
        judge(server.url, token_env="LOOKER_KEY").ask(PROMPT, png())
        assert server.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"

    @pytest.mark.parametrize("value", [None, "", "  "])
    def test_missing_token_sends_no_request(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, value: str | None
    ) -> None:
        monkeypatch.delenv("LOOKER_KEY", raising=False)
        if value is not None:
            monkeypatch.setenv("LOOKER_KEY", value)
        with pytest.raises(JudgeFailed, match="'tester' needs the environment variable LOOKER_KEY"):
            judge(serve().url, token_env="LOOKER_KEY")

    @pytest.mark.parametrize("value", ["two words", "line\nbreak", "schlüssel"])
    def test_invalid_token_is_not_shown(self, serve: Serve, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("LOOKER_KEY", value)
        with pytest.raises(JudgeFailed, match="LOOKER_KEY contains characters that are not allowed") as failed:
            judge(serve().url, token_env="LOOKER_KEY")
        assert value not in str(failed.value)

    @pytest.mark.parametrize("status", [400, 401])
    def test_token_in_a_response_is_removed(self, serve: Serve, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
        monkeypatch.setenv("LOOKER_KEY", TOKEN)
        server = serve(lambda _: Reply(status, b"x" * 290 + f"bad key {TOKEN}".encode()))
        try:
            recorded = judge(server.url, token_env="LOOKER_KEY").ask(PROMPT, png()).error
        except JudgeFailed as failed:
            recorded = str(failed)
        assert f"HTTP {status}" in recorded and TOKEN[:8] not in recorded

    def test_token_in_a_completion_is_removed(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOOKER_KEY", TOKEN)
        server = serve(lambda _: completion(f"{TOKEN} <score>[1,1,1]</score>"))
        reported = judge(server.url, token_env="LOOKER_KEY").ask(PROMPT, png())
        assert reported.text == "[token] <score>[1,1,1]</score>"


class TestAnswers:
    @pytest.mark.parametrize(
        ("text", "failure"),
        [
            (None, Failure.NO_ANSWER),
            ("", Failure.NO_ANSWER),
            ("I cannot say.", Failure.NO_SCORES),
            ("<analysis>['one', 'tw", Failure.NO_SCORES),
            ("<score>[1, 0]</score>", Failure.WRONG_COUNT),
            ("<score>[1, 0, 2]</score>", Failure.NOT_BINARY),
            ("<score>1, 0, 1</score>", Failure.NOT_A_LIST),
        ],
    )
    def test_unreadable_response_is_recorded(self, serve: Serve, text: str | None, failure: Failure) -> None:
        server = serve(lambda _: completion(text, "length"))
        reported = judge(server.url).ask(PROMPT, png())
        assert (reported.text, reported.verdict.scores, reported.verdict.failure, reported.error) == (
            text,
            None,
            failure,
            "",
        )
        assert len(server.requests) == 1

    def test_invalid_characters_are_replaced(self, serve: Serve) -> None:
        server = serve(lambda _: completion("\x00<score>[1,0,1]</score>\ud800"))
        reported = judge(server.url).ask(PROMPT, png())
        assert reported.text == "�<score>[1,0,1]</score>�"
        assert reported.verdict.scores == (1, 0, 1)

    def test_endless_response_is_truncated(self, serve: Serve) -> None:
        server = serve(lambda _: completion("<score>[1,0,1]</score>" + "." * (MAX_CHARACTERS + 5)))
        reported = judge(server.url).ask(PROMPT, png())
        assert reported.text is not None and len(reported.text) == MAX_CHARACTERS
        assert reported.verdict.scores == (1, 0, 1)

    @pytest.mark.parametrize(
        ("content", "reason", "scores"),
        [
            ([{"type": "text", "text": "<score>[1,0,1]</score>"}], "stop", (1, 0, 1)),
            (
                [
                    {"type": "thinking", "thinking": "hmm <score>[0,0,0]</score>"},
                    {"type": "text", "text": "<analysis>['a', 'b', 'c']</analysis><sco"},
                    {"type": "text", "text": "re>[1,0,1]</score>"},
                ],
                "stop",
                (1, 0, 1),
            ),
            ([{"type": "thinking", "thinking": "<score>[0,0,0]</score>"}], "stop", None),
            ([], "stop", None),
            ("maybe <score>[1,0,1]</score> but", "length", None),
            ("<score>[1,0,1]</score>", "length", (1, 0, 1)),
            ("maybe <score>[0,0,0]</score>\n</think><score>[1,0,1]</score>", "stop", (1, 0, 1)),
        ],
    )
    def test_the_answer_is_the_text_without_thinking(
        self, serve: Serve, content: Any, reason: str, scores: tuple[int, ...] | None
    ) -> None:
        server = serve(lambda _: completion(content, reason))
        reported = judge(server.url).ask(PROMPT, png())
        assert (reported.verdict.scores, reported.error) == (scores, "")
        assert scores is not None or reported.verdict.failure in (Failure.NO_SCORES, Failure.NO_ANSWER)


class TestFaults:
    @pytest.mark.parametrize(
        "fault",
        [
            Reply(500, b"<html>oh</html>"),
            Reply(502),
            Reply(503, headers={"Retry-After": "0"}),
            Reply(429, headers={"Retry-After": "0"}),
            Reply(429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
            Reply(429, headers={"Retry-After": "soon"}),
            Reply(408),
            Reply(200, b"not json"),
            Reply(200, b"[" * 100_000),
            Reply(200, b"\xff\xfe"),
            Reply(200, b"null"),
            Reply(200, b"{}"),
            Reply(200, b'{"choices": []}'),
            Reply(200, b'{"choices": [{"text": "old"}]}'),
            Reply(200, b'{"choices": [{"message": "old"}]}'),
            Reply(200, b'{"choices": [{"message": {"content": [1]}}]}'),
            Reply(200, b"." * (MAX_BYTES + 1)),
            Reply(200, b'{"choices": [', cut=5),
            Reply(200, b"x", headers={"Content-Encoding": "gzip"}),
        ],
    )
    def test_temporary_fault_is_retried(self, serve: Serve, fault: Reply) -> None:
        server = serve(first(fault, fault))
        reported = judge(server.url).ask(PROMPT, png())
        assert (reported.verdict.scores, reported.error) == ((1, 0, 1), "")
        assert len(server.requests) == 3

    def test_request_to_a_hanging_server_is_retried(self, serve: Serve) -> None:
        server = serve(first(Reply(hang=True)))
        reported = judge(server.url, timeout_seconds=0.3).ask(PROMPT, png())
        assert reported.verdict.scores == (1, 0, 1)
        assert reported.seconds < 0.3  # from the request that was answered

    def test_retry_after_is_obeyed(self, serve: Serve) -> None:
        server = serve(first(Reply(429, headers={"Retry-After": "1"})))
        asking = judge(server.url)
        with ThreadPoolExecutor(1) as pool:
            reported = pool.submit(asking.ask, PROMPT, png())
            with pytest.raises(TimeoutError):
                reported.result(timeout=0.8)
            assert reported.result().verdict.scores == (1, 0, 1)

    def test_unavailable_server_exhausts_the_patience(self, serve: Serve) -> None:
        server = serve(lambda _: Reply(503, b"loading the model"))
        with pytest.raises(JudgeFailed, match=r"'tester' has not responded for .* HTTP 503 .*: loading the model"):
            judge(server.url, patience_seconds=0.3).ask(PROMPT, png())
        assert len(server.requests) > 1

    def test_unreachable_server_exhausts_the_patience(self, serve: Serve) -> None:
        server = serve()
        server.close()
        with pytest.raises(JudgeFailed, match=r"'tester' has not responded for .* ConnectError"):
            judge(server.url, patience_seconds=0.2).ask(PROMPT, png())

    def test_every_response_resets_the_patience(self, serve: Serve) -> None:
        server = serve(lambda request: valid_reply(request) if request.number % 4 == 3 else Reply(500))
        asking = OpenAIJudge(entry(server.url, patience_seconds=1.0), benchmark().judge, first_wait=0.03)
        begun = time.monotonic()
        for _ in range(6):  # each waits for at least 0.03 + 0.06 + 0.12 seconds
            assert asking.ask(PROMPT, png()).verdict.scores == (1, 0, 1)
        assert len(server.requests) == 24
        assert time.monotonic() - begun > 1.0  # longer in total than `patience_seconds`

    @pytest.mark.parametrize("status", [301, 401, 402, 403, 404, 405])
    def test_misconfigured_server_is_not_retried(self, serve: Serve, status: int) -> None:
        server = serve(lambda _: Reply(status, b"no such model"))
        with pytest.raises(
            JudgeFailed, match=rf"'tester' at 127.0.0.1:\d+ is misconfigured; .* HTTP {status} .*no such model"
        ):
            judge(server.url).ask(PROMPT, png())
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [400, 413, 415, 422])
    def test_rejected_image_has_no_scores(self, serve: Serve, status: int) -> None:
        server = serve(lambda _: Reply(status, b"unsafe image"))
        reported = judge(server.url).ask(PROMPT, png())
        assert (reported.text, reported.verdict.failure) == (None, Failure.NO_ANSWER)
        assert f"HTTP {status}" in reported.error and "unsafe image" in reported.error
        assert len(server.requests) == 1

    def test_image_that_always_fails_is_skipped(self, serve: Serve) -> None:
        bad, good = png(8), png(16)
        server = serve(lambda request: Reply(500) if request.image[1] == bad else valid_reply(request))
        asking = judge(server.url, image_format="png", concurrency=2)
        with ThreadPoolExecutor(1) as pool:
            reported = pool.submit(asking.ask, PROMPT, bad)
            while not reported.done():
                asking.ask(PROMPT, good)
        assert reported.result().verdict.failure is Failure.NO_ANSWER
        assert reported.result().error.startswith(
            f"failed {MAX_OWN_FAULTS} times while other requests succeeded: HTTP 500"
        )


class TestClosing:
    def test_closing_interrupts_a_retry_delay(self, serve: Serve) -> None:
        server = serve(lambda _: Reply(429, headers={"Retry-After": "100"}))
        asking = judge(server.url)
        with ThreadPoolExecutor(1) as pool:
            reported = pool.submit(asking.ask, PROMPT, png())
            while not server.requests:
                assert not reported.done()
            asking.close()
            with pytest.raises(JudgeClosed, match="was closed; last error: HTTP 429"):
                reported.result()
        with pytest.raises(JudgeClosed):
            asking.ask(PROMPT, png())


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Requests to loopback addresses ignore the proxy settings of the machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield
