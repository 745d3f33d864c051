"""What a run tells of its steps: metrics of rewards, reward groups, images."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from service.contracts.events import RewardGroup, Sample
from worker.engine.grpo.advantages import Advantages
from worker.engine.grpo.algorithms.base import Algorithm
from worker.engine.models.images import png
from worker.engine.training.event_log import EventWriter, finite


def reward_metrics(
    names: Sequence[str],
    rewards: Tensor,
    anchor_rewards: Tensor | None,
    advantages: Advantages,
    missing: Sequence[Mapping[str, int]],
) -> dict[str, float]:
    """Metrics of a step's rewards [rewards, P, K, G, Λ], anchors' rewards [rewards, P] and advantages.

    missing: by rank, how often a reward gave no value, by reward and cause.
    """
    values: dict[str, float] = {}
    for k, name in enumerate(names):
        values[f"reward/{name}"] = rewards[k].nanmean().item()
        if anchor_rewards is not None:
            values[f"anchor/{name}"] = anchor_rewards[k].nanmean().item()
        values[f"spread/{name}"] = advantages.spread[k].nanmean().item()
        values[f"failures/{name}"] = float((~rewards[k].isfinite()).sum())
    for of_rank in missing:
        values |= {f"failures/{kind}": values.get(f"failures/{kind}", 0.0) + n for kind, n in of_rank.items()}
    values["zero_std_fraction"] = advantages.zero_std_fraction
    values["advantage/abs_mean"] = advantages.values.abs().mean().item()
    return values


def reward_groups(
    names: Sequence[str], prompts: Sequence[str], rewards: Tensor, algorithm: Algorithm
) -> list[RewardGroup]:
    """The groups of rewards [rewards, P, K, G, Λ], each with its G values."""
    return [
        RewardGroup(
            prompt=prompt,
            prompt_index=p,
            sde_step=i,
            granularity=stride,
            reward=name,
            values=[finite(value) for value in rewards[r, p, k, :, s].tolist()],
        )
        for r, name in enumerate(names)
        for p, prompt in enumerate(prompts)
        for k, i in enumerate(algorithm.places)
        for s, stride in enumerate(algorithm.granularities)
    ]


def show(
    events: EventWriter,
    image: Tensor,
    *,
    step: int,
    kind: str,
    index: int,
    prompt: str,
    rewards: dict[str, float | None],
    **drawn: int,
) -> None:
    """Write an image [3, height, width] in 0..1 as a file, and tell of it; `drawn`: the group it is of."""
    file, sha256, size = write_png(events.directory, f"{step:06d}-{kind}-{index:03d}.png", image)
    said = {"step": step, "kind": kind, "index": index, "prompt": prompt, "rewards": rewards, **drawn}
    events.write(Sample(**said, file=file, sha256=sha256, size=size))


def write_png(directory: Path, name: str, image: Tensor) -> tuple[str, str, int]:
    """Write `samples/name`; return the path relative to `directory`, its sha256 and its size in bytes."""
    data = png(image)
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
