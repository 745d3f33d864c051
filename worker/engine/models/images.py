"""Conversion of image tensors to 8-bit Pillow images and PNG files."""

import io
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor


def to_pil(image: Tensor) -> Image.Image:
    """Convert an image [3, height, width] in 0..1 to an 8-bit Pillow image."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def png(image: Tensor, metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode an image [3, height, width] in 0..1 as PNG, with `metadata` in the text chunks."""
    info = PngInfo()
    for key, value in (metadata or {}).items():
        info.add_itxt(key, value)
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def read_png(data: bytes) -> Tensor:
    """Decode a PNG file into a float32 image [3, height, width] in 0..1."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        values = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()
