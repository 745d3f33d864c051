"""Sample pictures: which are worth keeping, and writing them."""

import hashlib
import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def png(picture: Tensor) -> bytes:
    """A picture [3, height, width] in 0..1 as PNG."""
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(directory: Path, name: str, picture: Tensor) -> tuple[str, str, int]:
    """Write `samples/name`; return the path relative to `directory`, its sha256 and its size in bytes."""
    data = png(picture)
    target = directory / "samples" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target.relative_to(directory).as_posix(), hashlib.sha256(data).hexdigest(), len(data)


def widest_groups(totals: Tensor) -> list[tuple[int, int]]:
    """For each prompt the (SDE step, granularity) index whose group spreads most.

    totals: weighted rewards [prompts, K, G, Λ], NaN where missing. Prompts without any spread are left out as (-1, -1).
    """
    filled = torch.where(totals.isfinite(), totals, totals.nanmean(dim=2, keepdim=True))
    spread = torch.nan_to_num(filled.amax(dim=2) - filled.amin(dim=2), nan=0.0)
    places = []
    for prompt in spread:
        flat = int(prompt.flatten().argmax())
        k, stride = divmod(flat, prompt.shape[1])
        places.append((k, stride) if prompt[k, stride] > 0 else (-1, -1))
    return places
