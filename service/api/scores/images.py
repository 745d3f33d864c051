"""Check uploaded images before decoding them, and store them as plain RGB.

Only the pixels are kept. The EXIF orientation is applied, transparent areas become white, and gray, palette and CMYK
images are converted to RGB. Images with 16 bits per channel are reduced to the upper 8 bits, after a transparent color
of a PNG was applied. Animations are rejected.
"""

import base64
import binascii
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from service.contracts.scores import GivenImage
from service.core.settings import Settings
from service.http.errors import FieldError, Invalid

if TYPE_CHECKING:
    from PIL import Image, ImageFile

MAX_SIDE = 16_384
"""Maximum width and height in pixels."""
FORMATS = ("PNG", "JPEG", "WEBP")
_TRANSPARENT = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})


class _InvalidImage(ValueError):
    """An image was rejected. `type` is a stable identifier for the reason."""

    def __init__(self, msg: str, type: str) -> None:
        super().__init__(msg)
        self.type = type


@dataclass(frozen=True)
class ReceivedImage:
    """An image from a request, stored as an RGB PNG file on this machine."""

    file: Path
    received_sha256: str
    """SHA-256 of the file in the request."""
    sha256: str
    """SHA-256 of the PNG."""
    size: int
    width: int
    height: int


def receive(settings: Settings, images: Sequence[GivenImage], directory: Path) -> list[ReceivedImage]:
    """Decode the images of a request into files in `directory`. Raises Invalid with one error per bad image."""
    errors: list[FieldError] = []
    received: list[ReceivedImage] = []
    pixels_left = settings.max_pixels
    for index, given in enumerate(images):
        try:
            data = _decode_base64(given.image, settings.max_score_image_bytes)
            found = _store(data, directory / f"{index}.png", min(settings.max_score_image_pixels, pixels_left))
        except _InvalidImage as error:
            errors.append(FieldError(loc=["body", "images", index, "image"], msg=str(error), type=error.type))
            continue
        pixels_left -= found.width * found.height
        received.append(found)
    if errors:
        raise Invalid(errors)
    return received


def check_count(settings: Settings, count: int, field: str) -> Iterator[FieldError]:
    """Yield an error if a request has more images than the maximum."""
    if count > settings.max_score_images:
        msg = f"{count} images; the maximum is {settings.max_score_images}"
        yield FieldError(loc=["body", field], msg=msg, type="too_many_images")


def _decode_base64(text: str, max_bytes: int) -> bytes:
    if len(text) > 4 * ((max_bytes + 2) // 3):
        raise _InvalidImage(f"The file exceeds the maximum of {max_bytes} bytes", "image_too_large")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _InvalidImage(f"Invalid base64: {error}", "not_base64") from error


def _store(data: bytes, file: Path, max_pixels: int) -> ReceivedImage:
    """Write an image to `file` as an RGB PNG. The format and size are checked before any pixel is decoded."""
    from PIL import Image  # takes 0.1 s, so it is imported for the first image instead of at startup

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check(image, max_pixels)
            plain = as_rgb(_color_key_applied(image, data))
    except _InvalidImage:
        raise
    except Exception as error:  # decoders raise many exception types for malicious files
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if "cannot identify" in reason:  # Pillow's message contains the repr of an in-memory object
            reason = "unknown file signature"
        msg = f"Invalid image: {reason}; send a complete {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        raise _InvalidImage(msg, "not_an_image") from error
    plain.save(file, "PNG", compress_level=1)
    with file.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return ReceivedImage(file, hashlib.sha256(data).hexdigest(), digest, file.stat().st_size, *plain.size)


def _check(image: "Image.Image", max_pixels: int) -> None:
    width, height = image.size
    if max(width, height) > MAX_SIDE:
        raise _InvalidImage(f"{width}×{height}: width and height must be at most {MAX_SIDE} pixels", "too_large_side")
    if width * height > max_pixels:
        msg = f"{width}×{height} is {width * height} pixels; only {max_pixels} are left for this image"
        raise _InvalidImage(msg, "too_many_pixels")
    if getattr(image, "n_frames", 1) != 1 and image.format in FORMATS:  # a camera's JPEG may contain a preview
        raise _InvalidImage("Animations are not supported; send a single image", "animation")


_GRAY_STEPS = {"L;2": 85, "L;4": 17}
"""Factor by which Pillow scales the samples of gray PNG files with few bits."""


def _color_key_applied(image: "ImageFile.ImageFile", data: bytes) -> "Image.Image":
    """Decode an image, comparing the transparent color of a PNG with the samples as stored in the file `data`.

    Pillow compares it with the samples reduced or scaled to 8 bits.
    """
    import numpy as np
    from PIL import Image

    key, raw = image.info.get("transparency"), str(image.tile[0].args) if image.format == "PNG" else ""
    image.load()
    if key is None or raw not in (*_GRAY_STEPS, "I;16B", "RGB;16B"):
        return image
    if raw in _GRAY_STEPS:
        image.info["transparency"] = key * _GRAY_STEPS[raw]
        return image
    samples = np.asarray(image).astype(np.uint16)
    if raw == "RGB;16B":
        with Image.open(io.BytesIO(data)) as lower:  # swapped bytes: Pillow then keeps the lower 8 bits
            lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]
            samples = samples << 8 | np.asarray(lower)
    opaque = (samples.reshape(*samples.shape[:2], -1) != key).any(axis=2)
    reduced = image if raw == "RGB;16B" else Image.fromarray((samples >> 8).astype(np.uint8))
    reduced.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    reduced.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return reduced


def as_rgb(image: "Image.Image") -> "Image.Image":
    """Convert a decoded image to RGB as it would be displayed, without metadata."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits per channel, stored in Pillow's 16- or 32-bit modes
        upright = upright.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if upright.mode in _TRANSPARENT or "transparency" in upright.info:
        foreground = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", foreground.size, "white"), foreground)
    plain = upright.convert("RGB")
    plain.info.clear()
    return plain
