"""Images that clients send: looked at before they are decoded, and stored as plain RGB.

What a file holds besides pixels is dropped. An image is turned as its camera says (EXIF); transparency goes over
white; grey, palette and CMYK images become RGB; of 16 bits a channel the upper 8 count. An animation is refused:
which of its images is meant is not known.
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
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP")
_TRANSPARENT = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})


class _Refused(ValueError):
    """Why an image is not taken, and the stable name of the reason."""

    def __init__(self, msg: str, type: str) -> None:
        super().__init__(msg)
        self.type = type


@dataclass(frozen=True)
class ReceivedImage:
    """An image of a request, as an RGB PNG on this machine."""

    file: Path
    received_sha256: str
    """Of the file as it came."""
    sha256: str
    size: int
    width: int
    height: int


def receive(settings: Settings, images: Sequence[GivenImage], directory: Path) -> list[ReceivedImage]:
    """Decode the images of a request into files of `directory`. Raises Invalid, naming each that is none."""
    errors: list[FieldError] = []
    received: list[ReceivedImage] = []
    pixels_left = settings.max_pixels
    for index, given in enumerate(images):
        try:
            data = _unwrapped(given.image, settings.max_score_image_bytes)
            found = _store(data, directory / f"{index}.png", min(settings.max_score_image_pixels, pixels_left))
        except _Refused as refused:
            errors.append(FieldError(loc=["body", "images", index, "image"], msg=str(refused), type=refused.type))
            continue
        pixels_left -= found.width * found.height
        received.append(found)
    if errors:
        raise Invalid(errors)
    return received


def check_count(settings: Settings, count: int, field: str) -> Iterator[FieldError]:
    """The error of a request for more images than this service scores at once."""
    if count > settings.max_score_images:
        msg = f"{count} images; allowed are {settings.max_score_images}"
        yield FieldError(loc=["body", field], msg=msg, type="too_many_images")


def _unwrapped(text: str, most: int) -> bytes:
    if len(text) > 4 * ((most + 2) // 3):
        raise _Refused(f"the file is larger than {most} bytes, the most that is taken", "image_too_large")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _Refused(f"this is no base64: {error}", "not_base64") from error


def _store(data: bytes, file: Path, most_pixels: int) -> ReceivedImage:
    """Write an RGB PNG. The header tells format and size before a pixel is decoded."""
    from PIL import Image  # 0.1 s that the API's start does not pay

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check(image, most_pixels)
            image.load()
            plain = as_rgb(image)
    except _Refused:
        raise
    except Exception as error:  # decoders raise of every kind on files made to confuse them
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if "cannot identify" in reason:  # it names an object in memory
            reason = "its beginning is none of theirs"
        msg = f"this is no whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image: {reason}"
        raise _Refused(msg, "not_an_image") from error
    plain.save(file, "PNG", compress_level=1)
    with file.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return ReceivedImage(file, hashlib.sha256(data).hexdigest(), digest, file.stat().st_size, *plain.size)


def _check(image: "Image.Image", most_pixels: int) -> None:
    width, height = image.size
    if width * height > most_pixels:
        msg = f"{width}×{height} are {width * height} pixels; allowed are {most_pixels}, of those left to the request"
        raise _Refused(msg, "too_many_pixels")
    if getattr(image, "n_frames", 1) != 1 and image.format in FORMATS:  # a camera's JPEG may hold a preview, too
        raise _Refused("an animation has more than one image; send one", "animation")


def as_rgb(image: "Image.Image") -> "Image.Image":
    """A decoded image as people see it, without what a file may hold besides."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits, in Pillow's 16- and 32-bit modes
        upright = upright.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if upright.mode in _TRANSPARENT or "transparency" in upright.info:
        above = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    plain = upright.convert("RGB")
    plain.info.clear()
    return plain
