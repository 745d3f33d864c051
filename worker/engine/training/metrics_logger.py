"""Logging of a run's training steps: metrics, reward groups and sample images."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.contracts.events import Metrics, RewardGroup, RewardGroups, Sample
from service.contracts.plan import heldout_steps
from worker.engine.grpo.advantages import Advantages
from worker.engine.grpo.algorithms.base import Algorithm
from worker.engine.models.images import png
from worker.engine.training.event_log import finite
from worker.engine.training.heldout_evaluator import HeldoutEvaluator
from worker.engine.training.reward_scorer import RewardScorer
from worker.engine.training.run_context import RunContext

logger = logging.getLogger(__name__)

_LOGGED = ("heldout", "reward", "anchor", "kl", "grad_norm", "learning_rate")
"""Metric families in the log line of a step, in this order. The sums of `seconds` and `nfe` follow."""


@dataclass
class MetricsLogger:
    """Writes the metrics, reward groups and sample images of the current step."""

    context: RunContext
    scorer: RewardScorer
    algorithm: Algorithm

    def log(self, values: Mapping[str, float]) -> None:
        """Write metrics after combining them across all processes, and log a line that summarizes them."""
        elapsed = {
            "elapsed/seconds": self.context.progress.elapsed_seconds,
            "elapsed/nfe": float(self.context.meter.training_nfe),
        }
        combined = self.context.distributed.reduce_metrics({**values, **elapsed})
        metrics = {name: finite(value) for name, value in combined.items()}
        self.context.events.write(Metrics(step=self.context.progress.step, values=metrics))
        if self.context.distributed.is_main:
            logger.info("step %d: %s", self.context.progress.step, summary(combined))

    def log_step(
        self,
        prompts: Sequence[str],
        rewards: Tensor,
        anchor_rewards: Tensor | None,
        advantages: Advantages,
        update: Mapping[str, float],
    ) -> None:
        """Write the metrics and reward groups of a step.

        rewards: [rewards, P, K, G, Λ]. anchor_rewards: [rewards, P] or None. update: the metrics of the policy update.
        """
        names = list(self.context.rewards)
        missing = self.context.distributed.all_gather_object(self.scorer.take_missing())
        metrics = reward_metrics(names, rewards, anchor_rewards, advantages, missing)
        self.log({**update, **metrics, **self.context.meter.take()})
        groups = reward_groups(names, prompts, rewards, self.algorithm)
        self.context.events.write(RewardGroups(step=self.context.progress.step, groups=groups))

    def log_heldout_images(self, latents: Tensor, values: Tensor, evaluator: HeldoutEvaluator) -> None:
        """Decode clean `latents` and write the held-out images with their `values` [rewards, pairs]."""
        if not len(latents) or not self.context.distributed.is_main:
            return
        for index, image in enumerate(self.scorer.decode(latents, "heldout_")):
            scores = dict(zip(evaluator.names, values[:, index].tolist(), strict=True))
            self._log_image(image, "heldout", index, evaluator.prompt(index), scores)

    def log_best_and_worst(self, prompts: Sequence[str], ends: Tensor, rewards: Tensor) -> None:
        """For the first prompts, write the best and worst images of the group with the widest range of rewards.

        ends: clean latents [P, K, G, Λ, …] for this process's shard of `prompts`. rewards: [rewards, P, K, G, Λ] for
        all prompts.
        """
        distributed, weights = self.context.distributed, self.context.rewards
        totals = (rewards * torch.tensor(list(weights.values()))[:, None, None, None, None]).sum(dim=0)
        shard = distributed.shard(len(prompts))
        groups = widest_groups(totals)[: self.context.spec.heldout.samples]
        shown = [(p, *group) for p, group in enumerate(groups) if group is not None]
        chosen = [best_and_worst(totals[p, k, :, s]) for p, k, s in shown]
        latents = ends.new_zeros(len(shown), 2, *ends.shape[4:])
        for row, ((p, k, s), pair) in enumerate(zip(shown, chosen, strict=True)):
            if p in shard:
                latents[row] = ends[p - shard.start, k, pair, s]
        latents = distributed.all_reduce(latents)
        if not distributed.is_main:
            return
        for row, ((p, k, s), pair) in enumerate(zip(shown, chosen, strict=True)):
            images = self.scorer.decode(latents[row], "heldout_")
            group = {"sde_step": self.algorithm.group_steps[k], "granularity": self.algorithm.granularities[s]}
            for kind, g, image in zip(("best", "worst"), pair, images, strict=True):
                scores = dict(zip(weights, rewards[:, p, k, g, s].tolist(), strict=True))
                self._log_image(image, kind, p, prompts[p], scores, **group)

    def log_group_images(self, prompt: str, ends: Tensor, rewards: Tensor) -> None:
        """Write the images of all groups of the step's first prompt, as far as the disk limit of the spec allows.

        ends: clean latents [P, K, G, Λ, …] of this process's prompts. rewards: [rewards, P, K, G, Λ] for all prompts.
        """
        spec, groups = self.context.spec, self.algorithm
        budget = int(spec.heldout.group_images_mib * 2**20 / max(1, len(heldout_steps(spec)) - 1))
        if not budget or not self.context.distributed.is_main:  # the main process has the first prompt
            return
        number = 0
        for k, sde_step in enumerate(groups.group_steps):
            for s, stride in enumerate(groups.granularities):
                images = [png(image) for image in self.scorer.decode(ends[0, k, :, s], "heldout_")]
                budget -= sum(map(len, images))
                if budget < 0:
                    return
                for g, data in enumerate(images):
                    scores = dict(zip(self.context.rewards, rewards[:, 0, k, g, s].tolist(), strict=True))
                    self._log_png(data, "group", number + g, prompt, scores, sde_step=sde_step, granularity=stride)
                number += len(images)

    def _log_image(
        self, image: Tensor, kind: str, index: int, prompt: str, scores: Mapping[str, float], **group: int
    ) -> None:
        """Write an image [3, height, width] in 0..1 to a PNG file, and log its event."""
        self._log_png(png(image), kind, index, prompt, scores, **group)

    def _log_png(
        self, data: bytes, kind: str, index: int, prompt: str, scores: Mapping[str, float], **group: int
    ) -> None:
        events, step = self.context.events, self.context.progress.step
        directory = events.directory / "samples"
        directory.mkdir(exist_ok=True)
        file = directory / f"{step:06d}-{kind}-{index:03d}.png"
        file.write_bytes(data)
        event = {
            "step": step,
            "kind": kind,
            "index": index,
            "prompt": prompt,
            "rewards": {name: finite(value) for name, value in scores.items()},
            "file": file.relative_to(events.directory).as_posix(),
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
        }
        events.write(Sample.model_validate({**event, **group}))


def reward_metrics(
    names: Sequence[str],
    rewards: Tensor,
    anchor_rewards: Tensor | None,
    advantages: Advantages,
    missing: Sequence[Mapping[str, int]],
) -> dict[str, float]:
    """Compute metrics from a step's rewards [rewards, P, K, G, Λ], anchor rewards [rewards, P] and advantages.

    missing: for each process, the number of failures by NAME/KIND.
    """
    values: dict[str, float] = {}
    for k, name in enumerate(names):
        values[f"reward/{name}"] = rewards[k].nanmean().item()
        if anchor_rewards is not None:
            values[f"anchor/{name}"] = anchor_rewards[k].nanmean().item()
        values[f"spread/{name}"] = advantages.spread[k].nanmean().item()
        values[f"failures/{name}"] = float((~rewards[k].isfinite()).sum())
    for counts in missing:
        values |= {f"failures/{kind}": values.get(f"failures/{kind}", 0.0) + n for kind, n in counts.items()}
    values["zero_std_fraction"] = advantages.zero_std_fraction
    values["advantage/abs_mean"] = advantages.values.abs().mean().item()
    return values


def summary(metrics: Mapping[str, float]) -> str:
    """Format the main metrics of a step as `NAME=VALUE` pairs, with the total seconds and NFE of its parts."""
    shown = {name: metrics[name] for family in _LOGGED for name in metrics if name.split("/")[0] == family}
    for unit in ("seconds", "nfe"):
        shown[unit] = sum(
            value for name, value in metrics.items() if name.startswith(f"{unit}/") and "total" not in name
        )
    return " ".join(f"{name}={value:.4g}" if name != "nfe" else f"nfe={value:.0f}" for name, value in shown.items())


def reward_groups(
    names: Sequence[str], prompts: Sequence[str], rewards: Tensor, algorithm: Algorithm
) -> list[RewardGroup]:
    """Return the groups in rewards [rewards, P, K, G, Λ], each with its G values."""
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
        for k, i in enumerate(algorithm.group_steps)
        for s, stride in enumerate(algorithm.granularities)
    ]


def widest_groups(totals: Tensor) -> list[tuple[int, int] | None]:
    """For each prompt, return the (SDE step, granularity) index of the group with the largest range.

    The index is None if all ranges are 0. totals: weighted rewards [prompts, K, G, Λ], NaN where missing.
    """
    filled = torch.where(totals.isfinite(), totals, totals.nanmean(dim=2, keepdim=True))
    spread = torch.nan_to_num(filled.amax(dim=2) - filled.amin(dim=2), nan=0.0)
    groups = [divmod(int(prompt.flatten().argmax()), prompt.shape[1]) for prompt in spread]
    return [group if prompt[group] > 0 else None for prompt, group in zip(spread, groups, strict=True)]


def best_and_worst(group: Tensor) -> list[int]:
    """Return the indices of the highest and lowest values in a group, ignoring missing values (NaN)."""
    best = torch.where(group.isfinite(), group, -torch.inf).argmax()
    worst = torch.where(group.isfinite(), group, torch.inf).argmin()
    return [int(best), int(worst)]
