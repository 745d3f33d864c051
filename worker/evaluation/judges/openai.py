"""Vision-language models behind the OpenAI chat protocol: vLLM, Gemini's compatible endpoint, and others."""

import base64
import email.utils
import io
import json
import os
import re
import threading
import time
from datetime import UTC, datetime
from typing import Any

import httpx
from PIL import Image
from tenacity import RetryCallState, Retrying, retry_if_exception_type, sleep_using_event, stop_when_event_set
from tenacity.wait import wait_exponential_jitter

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt, JudgeWords
from service.contracts.benchmarks.judging import read_answer
from service.contracts.catalog import JudgeEntry
from worker.evaluation.judges.base import Abandoned, Judge, JudgeFailed, Said

JPEG_QUALITY = 95
"""Of the official scripts."""
MOST_BYTES = 8 * 2**20
"""Of a response; a longer one is not read to its end."""
MOST_CHARACTERS = 200_000
"""Of an answer; what comes later is neither kept nor read."""
OWN_FAULTS = 8
"""A picture that fails so often, while the judge answers about others, is given up for now."""
LONGEST_WAIT = 30.0
"""Seconds between two requests about the same picture, unless the server asks for more."""
LONGEST_RETRY_AFTER = 120.0
"""Seconds: the most that a server is believed when it asks to wait."""

CONNECT_SECONDS = 10.0
"""Until a server that is there has taken a connection."""

_REFUSED = (400, 413, 415, 422)
"""The server does not want this picture or text; it may want others."""
_PASSING = (408, 425, 429)
"""Statuses, besides those of 500 and more, that another time may not have."""
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class _Fault(Exception):
    """No answer this time."""

    def __init__(self, reason: str, retry_after: float = 0.0, throttled: bool = False) -> None:
        super().__init__(reason)
        self.retry_after, self.throttled = retry_after, throttled


class _Refused(Exception):
    """The server will not judge this picture."""


class _Patience:
    """How long nobody has been answered, whoever asks."""

    def __init__(self, judge: str, seconds: float) -> None:
        self._judge, self._seconds = judge, seconds
        self._lock = threading.Lock()
        self._heard = float("-inf")
        self._away: float | None = None

    def answered(self) -> None:
        """Somebody was."""
        with self._lock:
            self._heard, self._away = time.monotonic(), None

    def failed(self, begun: float, fault: _Fault) -> float:
        """A request that was sent at `begun` was not; when another was. JudgeFailed: it is too long ago."""
        with self._lock:
            if self._away is None:
                self._away = max(begun, self._heard)
            away = time.monotonic() - self._away
            if away >= self._seconds:
                raise JudgeFailed(f"judge {self._judge!r} has not answered for {away:.0f} seconds; at last: {fault}")
            return self._heard


class OpenAIJudge(Judge):
    """Asks in the benchmark's words; connections are kept and shared."""

    def __init__(self, entry: JudgeEntry, words: JudgeWords, first_wait: float = 0.5) -> None:
        self.entry, self.concurrency = entry, entry.concurrency
        self._words = words
        self._token = _token(entry)
        self._url = f"{str(entry.url).rstrip('/')}/chat/completions"
        self._patience = _Patience(entry.name, entry.patience_seconds)
        self._closed = threading.Event()
        backoff = wait_exponential_jitter(initial=first_wait, max=LONGEST_WAIT, jitter=first_wait)

        def wait(state: RetryCallState) -> float:
            fault = state.outcome.exception() if state.outcome else None
            return max(backoff(state), fault.retry_after if isinstance(fault, _Fault) else 0.0)

        self._retrying = Retrying(
            retry=retry_if_exception_type(_Fault),
            wait=wait,
            sleep=sleep_using_event(self._closed),
            stop=stop_when_event_set(self._closed),
            reraise=True,
        )
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {self._token}"} if self._token else {},
            timeout=httpx.Timeout(entry.timeout_seconds, connect=min(CONNECT_SECONDS, entry.timeout_seconds)),
            limits=httpx.Limits(max_connections=entry.concurrency, max_keepalive_connections=entry.concurrency),
        )

    @classmethod
    def load(cls, entry: JudgeEntry, benchmark: Benchmark) -> "OpenAIJudge":
        if benchmark.judge is None:
            raise ValueError(
                f"judge {entry.name!r} has to be told what is asked for, and the benchmark {benchmark.name!r} has no "
                "words for it: choose the judge `perception`"
            )
        return cls(entry, benchmark.judge)

    def ask(self, prompt: BenchmarkPrompt, picture: bytes) -> Said:
        if self._closed.is_set():
            raise Abandoned(f"judge {self.entry.name!r} was closed")
        body = self._body(prompt, picture)
        first = time.monotonic()
        own_faults, failed = 0, first

        def once() -> Said:
            nonlocal own_faults, failed
            begun = time.monotonic()
            try:
                text = self._answer(body, begun)
            except _Fault as fault:
                others_heard = self._patience.failed(begun, fault) > failed
                own_faults, failed = own_faults + (others_heard and not fault.throttled), time.monotonic()
                if own_faults >= OWN_FAULTS:
                    return Said.nothing(f"{own_faults} times, while others were answered: {fault}", _since(first))
                raise
            self._patience.answered()
            return Said(text, read_answer(text, len(prompt.points)), seconds=_since(begun))

        try:
            return self._retrying(once)
        except _Refused as refusal:
            return Said.nothing(str(refusal), _since(first))
        except _Fault as fault:
            raise Abandoned(f"judge {self.entry.name!r} was closed; at last: {fault}") from fault

    def close(self) -> None:
        self._closed.set()

    def _body(self, prompt: BenchmarkPrompt, picture: bytes) -> bytes:
        shown = _jpeg(picture) if self.entry.picture == "jpeg" else picture
        url = f"data:image/{self.entry.picture};base64,{base64.b64encode(shown).decode()}"
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": self._words.fill(prompt)},
        ]
        message = {"role": "user", "content": content if self.entry.picture_first else content[::-1]}
        request = {
            "model": self.entry.model,
            "messages": [message],
            "temperature": 0,
            "max_tokens": self.entry.max_tokens,
        }
        return json.dumps(request, ensure_ascii=False).encode()

    def _answer(self, body: bytes, begun: float) -> str | None:
        """The judge's words. Raises _Fault, _Refused or JudgeFailed where there are none."""
        try:
            with self._client.stream(
                "POST", self._url, content=body, headers={"Content-Type": "application/json"}
            ) as response:
                data = self._read(response, begun)
        except httpx.HTTPError as error:
            raise _Fault(self._clean(f"{type(error).__name__}: {error}")) from error
        if response.status_code == 200:
            return self._words_in(data)
        reason = f"HTTP {response.status_code} {response.reason_phrase}: {self._excerpt(data)}"
        if response.status_code in _REFUSED:
            raise _Refused(reason)
        if response.status_code in _PASSING or response.status_code >= 500:
            raise _Fault(reason, _retry_after(response.headers), throttled=response.status_code == 429)
        raise JudgeFailed(
            f"judge {self.entry.name!r} at {httpx.URL(self._url).host} is set up wrongly (`url`, `model` or "
            f"`token_env` of its catalog entry): {reason}"
        )

    def _read(self, response: httpx.Response, begun: float) -> bytes:
        data = bytearray()
        for piece in response.iter_bytes():
            data += piece
            if len(data) > MOST_BYTES:
                raise _Fault(f"the response is longer than {MOST_BYTES} bytes")
            if _since(begun) > self.entry.timeout_seconds:
                raise _Fault(f"the response was not whole after {self.entry.timeout_seconds:g} seconds")
        return bytes(data)

    def _words_in(self, data: bytes) -> str | None:
        try:
            words = json.loads(data)["choices"][0]["message"].get("content")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _Fault(f"the response is no chat completion: {self._excerpt(data)}") from error
        if words is not None and not isinstance(words, str):
            raise _Fault(f"the response's content is no text: {self._excerpt(data)}")
        return None if words is None else self._clean(words[:MOST_CHARACTERS])

    def _excerpt(self, data: bytes) -> str:
        # Cleaned before it is cut: half a token would not be found.
        return " ".join(self._clean(data[:MOST_CHARACTERS].decode("utf-8", "replace")).split())[:300] or "no words"

    def _clean(self, text: str) -> str:
        """What of a server's words can be stored and shown: no token, and nothing that a database cannot hold."""
        shown = text.replace(self._token, "[token]") if self._token else text
        return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", shown)


def _token(entry: JudgeEntry) -> str | None:
    if entry.token_env is None:
        return None
    token = os.environ.get(entry.token_env, "").strip()
    if not token:
        raise JudgeFailed(f"judge {entry.name!r} needs the environment variable {entry.token_env} of the worker")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise JudgeFailed(f"judge {entry.name!r}: {entry.token_env} holds blanks or signs that no API key has")
    return token


def _jpeg(png: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds that the server asks to wait: given as such, or as a date."""
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value) if re.fullmatch(r"\d{1,9}(\.\d*)?", value) else _until(value)
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def _until(date: str) -> float:
    when = email.utils.parsedate_to_datetime(date)
    return (when - datetime.now(UTC if when.tzinfo else None)).total_seconds()


def _since(begun: float) -> float:
    return time.monotonic() - begun
