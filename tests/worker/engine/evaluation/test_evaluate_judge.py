"""Evaluation attempts with a judge server: retries, rejected requests and secrets."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.worker.engine.evaluation.conftest import Attempt
from tests.worker.engine.evaluation.judge_server import JudgeRequest, Reply, Serve, completion, valid_reply
from tests.worker.engine.evaluation.setting import entry, events, failed, image_key, image_keys, job, remaining_job

TOKEN = "sk-not-for-anybody-0123456789"


class TestJudgeRequests:
    def test_unreadable_responses_are_retried_and_all_recorded(self, serve: Serve, attempt: Attempt) -> None:
        replies = {0: completion("well …"), 1: completion("<score>[1, 0]</score>")}
        server = serve(
            lambda request: (
                replies.get(request.repeats, valid_reply(request)) if request.number < 3 else valid_reply(request)
            )
        )
        _, out = attempt(job(entry(server.url), prompts=1, num_images=1))
        assert [(event["number"], event["failure"], event["scores"]) for event in events(out, "answer")] == [
            (1, "no_scores", None),
            (2, "wrong_count", None),
            (3, None, [1, 0, 1]),
        ]
        assert [event["text"] for event in events(out, "answer")][:2] == ["well …", "<score>[1, 0]</score>"]

    def test_retries_are_limited(self, serve: Serve, attempt: Attempt) -> None:
        server = serve(lambda _: completion("well …"))
        status, out = attempt(job(entry(server.url, tries=2)))
        assert Counter(map(image_key, events(out, "answer"))) == dict.fromkeys(image_keys(job(None, rewards=["x"])), 2)
        assert (status, events(out)[-1]["outcome"], events(out)[-1]["step"]) == (0, "succeeded", 6)

    def test_rejected_image_does_not_affect_others(self, serve: Serve, attempt: Attempt) -> None:
        server = serve(lambda request: Reply(400, b"unsafe") if request.number == 2 else valid_reply(request))
        status, out = attempt(job(entry(server.url)))
        answers = events(out, "answer")
        assert (status, len(answers), len(server.requests)) == (0, 6, 6)
        (refused,) = [event for event in answers if event["scores"] is None]
        assert (refused["failure"], refused["text"]) == ("no_answer", None)
        assert "HTTP 400" in refused["error"] and "unsafe" in refused["error"]

    def test_judge_that_rejects_every_image_fails_the_attempt(self, serve: Serve, attempt: Attempt) -> None:
        server = serve(lambda _: Reply(400, b"this model takes no images"))
        status, out = attempt(job(entry(server.url), prompts=10))
        end = failed(out)
        assert (status, end["code"], len(server.requests)) == (1, "judge_failed", 16)
        assert "tester" in end["detail"] and "this model takes no images" in end["detail"]

    def test_judge_that_rejects_few_images_fails_the_attempt(self, serve: Serve, attempt: Attempt) -> None:
        server = serve(lambda _: Reply(400, b"this model takes no images"))
        status, out = attempt(job(entry(server.url)))
        assert (status, failed(out)["code"]) == (1, "judge_failed")

    def test_wrong_key_fails_immediately_and_stays_secret(
        self,
        serve: Serve,
        attempt: Attempt,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        monkeypatch.setenv("LOOKER_KEY", TOKEN)
        server = serve(lambda _: Reply(401, f"Incorrect API key provided: {TOKEN}".encode()))
        status, out = attempt(job(entry(server.url, token_env="LOOKER_KEY")))
        end = failed(out)
        assert (status, end["code"]) == (1, "judge_failed")
        assert "HTTP 401" in end["detail"] and "token_env" in end["detail"]
        assert "/evaluations/ID/resume" in end["hint"]
        assert TOKEN in server.requests[0].headers["Authorization"]
        assert TOKEN not in caplog.text
        assert not any(TOKEN in path.read_text(errors="replace") for path in out.iterdir() if path.is_file())

    def test_unavailable_judge_fails_the_attempt_and_keeps_earlier_results(
        self, serve: Serve, attempt: Attempt
    ) -> None:
        server = serve(lambda request: valid_reply(request) if request.number < 4 else Reply(503, b"out of order"))
        whole = job(entry(server.url, patience_seconds=0.1))
        status, out = attempt(whole)
        end = failed(out)
        assert (status, end["code"]) == (1, "judge_failed")
        assert "'tester' has not responded for" in end["detail"] and "out of order" in end["detail"]
        assert len(events(out, "answer")) == 4
        assert len(remaining_job(whole, [out]).done) == 4

    def test_generation_does_not_wait_for_the_judge(
        self, serve: Serve, attempt: Attempt, tmp_path: Path, eventually: Any
    ) -> None:
        def plan(request: JudgeRequest) -> Reply:
            eventually(lambda: len(list(tmp_path.glob("attempt/images/*.png"))) == 140)
            return valid_reply(request)

        status, out = attempt(job(entry(serve(plan).url), prompts=70, steps=1))  # three batches
        assert (status, len(events(out, "answer"))) == (0, 140)
