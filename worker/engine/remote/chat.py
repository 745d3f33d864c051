"""The OpenAI chat protocol, as far as one image and one text need it: vLLM, Gemini, and others."""

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image

from service.contracts.catalog import Asked
from worker.engine.remote.server import MOST_CHARACTERS, Fault, Server

PATH = "chat/completions"
JPEG_QUALITY = 95
"""Of the official scripts, UniGenBench++'s and UnifiedReward's."""


@dataclass(frozen=True)
class Completion:
    """A model's words, if any, and whether they were cut off at the most tokens allowed."""

    text: str | None
    truncated: bool


def question(entry: Asked, image: Image.Image | bytes, text: str) -> bytes:
    """The body that asks `text` about an image, of which bytes are a PNG file."""
    url = f"data:image/{entry.image_format};base64,{base64.b64encode(_file(entry.image_format, image)).decode()}"
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    message = {"role": "user", "content": content if entry.image_first else content[::-1]}
    request = {"model": entry.model, "messages": [message], "temperature": 0, "max_tokens": entry.max_tokens}
    return json.dumps(request, ensure_ascii=False).encode()


def completion(server: Server, data: bytes) -> Completion:
    """What `server` answered. Raises Fault where that is no chat completion."""
    try:
        choice = json.loads(data)["choices"][0]
        words, reason = choice["message"].get("content"), choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Fault(f"the response is no chat completion: {server.excerpt(data)}") from error
    if words is not None and not isinstance(words, str):
        raise Fault(f"the response's content is no text: {server.excerpt(data)}")
    return Completion(None if words is None else server.clean(words[:MOST_CHARACTERS]), reason == "length")


def png_file(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _file(kind: str, image: Image.Image | bytes) -> bytes:
    if kind == "png":
        return image if isinstance(image, bytes) else png_file(image)
    if isinstance(image, bytes):
        with Image.open(io.BytesIO(image)) as drawn:
            return _jpeg(drawn)
    return _jpeg(image)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
