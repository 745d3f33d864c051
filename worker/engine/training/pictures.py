"""Sample pictures of a run: which are worth keeping, and writing them."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from worker.engine.models.images import png


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


def best_and_worst(group: Tensor) -> list[int]:
    """The samples of the highest and the lowest of a group's values, NaN where missing."""
    best = torch.where(group.isfinite(), group, -torch.inf).argmax()
    worst = torch.where(group.isfinite(), group, torch.inf).argmin()
    return [int(best), int(worst)]
