"""The OpenAI chat protocol (vLLM, Gemini and others) for requests with one image and one text."""

import base64
import io
import json
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from PIL import Image

from service.contracts.catalog import RemoteServer
from worker.engine.remote.http_client import MAX_CHARACTERS, RequestFailed, Server

PATH = "chat/completions"
JPEG_QUALITY = 95
"""JPEG quality, as in the official UniGenBench++ and UnifiedReward scripts."""


@dataclass(frozen=True)
class Completion:
    """The text that a model returned, if any, and whether it was truncated at `max_tokens`."""

    text: str | None
    truncated: bool


def question(entry: RemoteServer, image: Image.Image | bytes, text: str) -> bytes:
    """Return the request body for an image and `text`. If `image` is bytes, it must be a PNG file."""
    url = f"data:image/{entry.image_format};base64,{base64.b64encode(_file(entry.image_format, image)).decode()}"
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    message = {"role": "user", "content": content if entry.image_first else content[::-1]}
    request: dict[str, Any] = {"model": entry.model, "messages": [message], entry.max_tokens_field: entry.max_tokens}
    if entry.temperature is not None:
        request["temperature"] = entry.temperature
    return json.dumps(request, ensure_ascii=False).encode()


def completion(server: Server, data: bytes) -> Completion:
    """Parse a response from `server`. Raises RequestFailed if it is not a chat completion.

    The content may be a list of parts. Those of type `text` are joined; others, such as `thinking`, are omitted.
    """
    try:
        choice = json.loads(data)["choices"][0]
        content, reason = choice["message"].get("content"), choice.get("finish_reason")
        if isinstance(content, list):
            texts = [part["text"] for part in content if part.get("type") == "text"]
            content = "".join(texts) if texts else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RequestFailed(f"the response is not a chat completion: {server.excerpt(data)}") from error
    if content is not None and not isinstance(content, str):
        raise RequestFailed(f"the response's content is not text: {server.excerpt(data)}")
    return Completion(None if content is None else server.clean(content[:MAX_CHARACTERS]), reason == "length")


def png_file(image: Image.Image) -> bytes:
    """Encode the image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _file(kind: str, image: Image.Image | bytes) -> bytes:
    if kind == "png":
        return image if isinstance(image, bytes) else png_file(image)
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(image)) if isinstance(image, bytes) else nullcontext(image) as opened:
        opened.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
