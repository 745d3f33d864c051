"""The judge behind the OpenAI chat protocol, asked on a real connection."""

import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.contracts.benchmarks.judging import Failure
from tests.worker.engine.evaluation.judge_server import JudgeRequest, Reply, Serve, completion, valid_reply
from tests.worker.engine.evaluation.setting import benchmark, entry
from worker.engine.evaluation.judges.base import JudgeClosed, JudgeFailed
from worker.engine.evaluation.judges.openai import MAX_OWN_FAULTS, OpenAIJudge
from worker.engine.remote.server import MAX_BYTES, MAX_CHARACTERS

PROMPT = benchmark().prompts[0]
TOKEN = "sk-not-for-anybody-0123456789"


def png(size: int = 16, mode: str = "RGB") -> bytes:
    """An image of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, len(mode)), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, format="PNG")
    return buffer.getvalue()


def judge(url: str, **changes: Any) -> OpenAIJudge:
    """A judge that loses little time between requests."""
    return OpenAIJudge(entry(url, **changes), benchmark().judge, first_wait=0.001)


def first(*replies: Reply) -> Callable[[JudgeRequest], Reply]:
    """These replies in turn, then good answers."""
    return lambda request: replies[request.number] if request.number < len(replies) else valid_reply(request)


class TestRequest:
    def test_it_is_the_documented_one(self, serve: Serve) -> None:
        server = serve()
        said = judge(server.url, max_tokens=77).ask(PROMPT, png())
        assert (said.verdict.scores, said.verdict.failure, said.error) == ((1, 0, 1), None, "")
        assert said.text is not None and "<score>[1, 0, 1]</score>" in said.text
        (request,) = server.requests
        assert request.path == "/v1/chat/completions"
        assert request.body.keys() == {"model", "messages", "temperature", "max_tokens"}
        assert (request.body["model"], request.body["temperature"], request.body["max_tokens"]) == ("Looker-1", 0, 77)
        assert request.text == benchmark().judge.fill(PROMPT)
        assert "Authorization" not in request.headers

    @pytest.mark.parametrize(("image_first", "order"), [(True, ["image_url", "text"]), (False, ["text", "image_url"])])
    def test_image_and_text_come_in_the_order_of_the_entry(
        self, serve: Serve, image_first: bool, order: list[str]
    ) -> None:
        server = serve()
        judge(server.url, image_first=image_first).ask(PROMPT, png())
        assert [part["type"] for part in server.requests[0].content] == order

    def test_a_png_is_sent_as_it_was_drawn(self, serve: Serve) -> None:
        server = serve()
        judge(server.url, image_format="png").ask(PROMPT, png())
        assert server.requests[0].image == ("image/png", png())

    @pytest.mark.parametrize("mode", ["RGB", "RGBA"])
    def test_a_jpeg_is_that_of_the_official_script(self, serve: Serve, mode: str) -> None:
        server = serve()
        judge(server.url).ask(PROMPT, png(mode=mode))
        expected = io.BytesIO()
        Image.open(io.BytesIO(png(mode=mode))).convert("RGB").save(expected, format="JPEG", quality=95)
        assert server.requests[0].image == ("image/jpeg", expected.getvalue())

    def test_connections_are_kept(self, serve: Serve) -> None:
        server = serve()
        asking = judge(server.url)
        for _ in range(5):
            asking.ask(PROMPT, png())
        assert server.connections == 1

    def test_a_base_url_may_end_with_a_stroke(self, serve: Serve) -> None:
        server = serve()
        judge(f"{server.url}/").ask(PROMPT, png())
        assert server.requests[0].path == "/v1/chat/completions"


class TestToken:
    def test_it_is_sent(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOOKER_KEY", f" {TOKEN}\n")
        server = serve()
        judge(server.url, token_env="LOOKER_KEY").ask(PROMPT, png())
        assert server.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"

    @pytest.mark.parametrize("value", [None, "", "  "])
    def test_without_one_nothing_is_begun(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, value: str | None
    ) -> None:
        monkeypatch.delenv("LOOKER_KEY", raising=False)
        if value is not None:
            monkeypatch.setenv("LOOKER_KEY", value)
        with pytest.raises(JudgeFailed, match="'tester' needs the environment variable LOOKER_KEY"):
            judge(serve().url, token_env="LOOKER_KEY")

    @pytest.mark.parametrize("value", ["two words", "line\nbreak", "schlüssel"])
    def test_one_that_no_header_can_hold_is_not_told(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("LOOKER_KEY", value)
        with pytest.raises(JudgeFailed, match="LOOKER_KEY contains spaces or characters") as failed:
            judge(serve().url, token_env="LOOKER_KEY")
        assert value not in str(failed.value)

    @pytest.mark.parametrize("status", [400, 401])
    def test_a_server_that_repeats_it_does_not_give_it_away(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        monkeypatch.setenv("LOOKER_KEY", TOKEN)
        server = serve(lambda _: Reply(status, b"x" * 290 + f"bad key {TOKEN}".encode()))
        try:
            told = judge(server.url, token_env="LOOKER_KEY").ask(PROMPT, png()).error
        except JudgeFailed as failed:
            told = str(failed)
        assert f"HTTP {status}" in told and TOKEN[:8] not in told

    def test_nor_does_an_answer(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOOKER_KEY", TOKEN)
        server = serve(lambda _: completion(f"{TOKEN} <score>[1,1,1]</score>"))
        said = judge(server.url, token_env="LOOKER_KEY").ask(PROMPT, png())
        assert said.text == "[token] <score>[1,1,1]</score>"


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
    def test_one_that_cannot_be_read_is_kept(self, serve: Serve, text: str | None, failure: Failure) -> None:
        server = serve(lambda _: completion(text, "length"))
        said = judge(server.url).ask(PROMPT, png())
        assert (said.text, said.verdict.scores, said.verdict.failure, said.error) == (text, None, failure, "")
        assert len(server.requests) == 1

    def test_signs_that_no_database_holds_are_replaced(self, serve: Serve) -> None:
        server = serve(lambda _: completion("\x00<score>[1,0,1]</score>\ud800"))
        said = judge(server.url).ask(PROMPT, png())
        assert said.text == "�<score>[1,0,1]</score>�"
        assert said.verdict.scores == (1, 0, 1)

    def test_an_endless_one_is_kept_and_read_to_a_limit(self, serve: Serve) -> None:
        server = serve(lambda _: completion("<score>[1,0,1]</score>" + "." * (MAX_CHARACTERS + 5)))
        said = judge(server.url).ask(PROMPT, png())
        assert said.text is not None and len(said.text) == MAX_CHARACTERS
        assert said.verdict.scores == (1, 0, 1)


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
    def test_a_passing_one_is_waited_out(self, serve: Serve, fault: Reply) -> None:
        server = serve(first(fault, fault))
        said = judge(server.url).ask(PROMPT, png())
        assert (said.verdict.scores, said.error) == ((1, 0, 1), "")
        assert len(server.requests) == 3

    def test_a_server_that_hangs_is_asked_again(self, serve: Serve) -> None:
        server = serve(first(Reply(hang=True)))
        said = judge(server.url, timeout_seconds=0.3).ask(PROMPT, png())
        assert said.verdict.scores == (1, 0, 1)
        assert said.seconds < 0.3  # of the request that was answered

    def test_one_that_asks_to_wait_is_obeyed(self, serve: Serve) -> None:
        server = serve(first(Reply(429, headers={"Retry-After": "1"})))
        asking = judge(server.url)
        with ThreadPoolExecutor(1) as pool:
            said = pool.submit(asking.ask, PROMPT, png())
            with pytest.raises(TimeoutError):
                said.result(timeout=0.8)
            assert said.result().verdict.scores == (1, 0, 1)

    def test_one_that_is_away_ends_the_patience(self, serve: Serve) -> None:
        server = serve(lambda _: Reply(503, b"loading the model"))
        with pytest.raises(JudgeFailed, match=r"'tester' has not responded for .* HTTP 503 .*: loading the model"):
            judge(server.url, patience_seconds=0.3).ask(PROMPT, png())
        assert len(server.requests) > 1

    def test_one_that_is_not_there_does_too(self, serve: Serve) -> None:
        server = serve()
        server.close()
        with pytest.raises(JudgeFailed, match=r"'tester' has not responded for .* ConnectError"):
            judge(server.url, patience_seconds=0.2).ask(PROMPT, png())

    def test_patience_begins_anew_with_every_answer(self, serve: Serve) -> None:
        server = serve(lambda request: valid_reply(request) if request.number % 4 == 3 else Reply(500))
        asking = OpenAIJudge(entry(server.url, patience_seconds=1.0), benchmark().judge, first_wait=0.03)
        begun = time.monotonic()
        for _ in range(6):  # each waits 0.03 + 0.06 + 0.12 seconds, or a little more
            assert asking.ask(PROMPT, png()).verdict.scores == (1, 0, 1)
        assert len(server.requests) == 24
        assert time.monotonic() - begun > 1.0  # longer, together, than the patience

    @pytest.mark.parametrize("status", [301, 401, 402, 403, 404, 405])
    def test_one_that_is_set_up_wrongly_is_not_waited_for(self, serve: Serve, status: int) -> None:
        server = serve(lambda _: Reply(status, b"no such model"))
        with pytest.raises(
            JudgeFailed, match=rf"'tester' at 127.0.0.1:\d+ is misconfigured; .* HTTP {status} .*no such model"
        ):
            judge(server.url).ask(PROMPT, png())
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [400, 413, 415, 422])
    def test_a_refused_image_has_no_answer(self, serve: Serve, status: int) -> None:
        server = serve(lambda _: Reply(status, b"unsafe image"))
        said = judge(server.url).ask(PROMPT, png())
        assert (said.text, said.verdict.failure) == (None, Failure.NO_ANSWER)
        assert f"HTTP {status}" in said.error and "unsafe image" in said.error
        assert len(server.requests) == 1

    def test_an_image_that_alone_fails_is_given_up(self, serve: Serve) -> None:
        bad, good = png(8), png(16)
        server = serve(lambda request: Reply(500) if request.image[1] == bad else valid_reply(request))
        asking = judge(server.url, image_format="png", concurrency=2)
        with ThreadPoolExecutor(1) as pool:
            said = pool.submit(asking.ask, PROMPT, bad)
            while not said.done():
                asking.ask(PROMPT, good)
        assert said.result().verdict.failure is Failure.NO_ANSWER
        assert said.result().error.startswith(f"failed {MAX_OWN_FAULTS} times while other requests succeeded: HTTP 500")


class TestClosing:
    def test_who_waits_to_ask_again_is_let_go(self, serve: Serve) -> None:
        server = serve(lambda _: Reply(429, headers={"Retry-After": "100"}))
        asking = judge(server.url)
        with ThreadPoolExecutor(1) as pool:
            said = pool.submit(asking.ask, PROMPT, png())
            while not server.requests:
                assert not said.done()
            asking.close()
            with pytest.raises(JudgeClosed, match="was closed; last error: HTTP 429"):
                said.result()
        with pytest.raises(JudgeClosed):
            asking.ask(PROMPT, png())


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Requests to loopback go there, whatever the machine's settings are."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield
