"""Example of a custom HTTP reward: the brightness of an image. Start it with `uvicorn reward_server:app --port 9000`.

The catalog entry: `{name: brightness, kind: http, url: "http://localhost:9000/v1", scale: 0 to 1}`.
"""

import base64
import io

from fastapi import FastAPI, HTTPException
from PIL import Image, ImageStat, UnidentifiedImageError
from pydantic import BaseModel

app = FastAPI(title="Brightness, a reward")


class Question(BaseModel):
    version: int
    model: str | None = None
    prompts: list[str]
    images: list[str]


class Answer(BaseModel):
    values: list[float | None]


@app.post("/v1/score")
def score(question: Question) -> Answer:
    if question.version != 1:
        raise HTTPException(400, f"Unsupported protocol version {question.version}; must be 1")
    if len(question.images) != len(question.prompts):
        raise HTTPException(422, f"{len(question.images)} images, but {len(question.prompts)} prompts")
    return Answer(values=[brightness(image) for image in question.images])


def brightness(image: str) -> float | None:
    """Mean luminance, 0 to 1; None if the image cannot be read, so that the value counts as missing."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(image, validate=True))) as image:
            return ImageStat.Stat(image.convert("L")).mean[0] / 255
    except (ValueError, UnidentifiedImageError):
        return None
