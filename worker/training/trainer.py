"""The training loop. `Trainer.run` reads like the algorithm; each line is a call with the paper's name for it."""

import math
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from service.contracts.events import (
    CheckpointSaved,
    Finished,
    Metrics,
    Phase,
    Progress,
    RewardGroup,
    RewardGroups,
    Sample,
)
from service.contracts.plan import evaluation_steps
from service.contracts.runs import RunSpec
from service.contracts.schedule import sigma_nodes
from worker.grpo.advantages import Advantages
from worker.grpo.algorithms import ALGORITHMS, Experience, LossPart
from worker.grpo.noise import normal
from worker.models.base import Conditioning, FlowModel, PictureSize
from worker.rewards.base import Reward
from worker.training.checkpoint import TrainingState, load_training, load_weights, save_checkpoint
from worker.training.events import ControlFile, EventWriter, finite
from worker.training.heldout import HeldOut
from worker.training.meter import Meter
from worker.training.pictures import widest_groups, write_png
from worker.training.prompts import PromptOrder
from worker.training.scoring import Scorer

MAX_BAD_STEPS = 3
"""Updates in a row that may be skipped for a non-finite loss or gradient before the run fails."""


PROGRESS_SECONDS = 30.0
"""Longest silence within a phase that goes in batches."""


class NotFinite(Exception):
    """The model's losses or gradients are not finite, again and again."""


class Trainer:
    """One alignment run, from its spec to its last checkpoint. Knows no server: it writes events and checkpoints."""

    def __init__(
        self,
        spec: RunSpec,
        model: FlowModel,
        rewards: dict[str, Reward],
        prompts: tuple[str, ...],
        heldout_prompts: tuple[str, ...],
        events: EventWriter,
    ) -> None:
        self.spec, self.model, self.events = spec, model, events
        self.control = ControlFile(events.directory)
        self.size = PictureSize(spec.sampling.width, spec.sampling.height)
        self.sigmas = sigma_nodes(spec.sampling.steps, spec.sampling.shift)
        self.algorithm = ALGORITHMS[spec.algorithm.name](spec.algorithm, self.sigmas)
        self.weights = {reward.name: reward.weight for reward in spec.rewards}
        self.order = PromptOrder(prompts, spec.training.sampler_seed)
        self.meter = Meter(model.device)
        self.scorer = Scorer(model, rewards, self.size, spec.sampling.decode_batch_size, self.meter, self.check)
        self.heldout = HeldOut(spec, model, heldout_prompts, self.scorer, self.meter, self.sigmas)
        training = spec.training
        if training.adapter == "lora":
            self.parameters = model.train_lora(training.lora_rank, training.lora_alpha, training.seed)
        else:
            self.parameters = model.train_all()
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=training.learning_rate,
            betas=(training.beta1, training.beta2),
            weight_decay=training.weight_decay,
        )
        self.step = 0
        self._bad_steps = 0
        self._skipped = 0
        self._step_seconds: list[float] = []
        self._phase: Phase = "loading"
        self._last_progress = 0.0
        self._evaluate_at = frozenset(evaluation_steps(spec))
        self._evaluated = 0 not in self._evaluate_at
        self._values: Tensor | None = None
        """Held-out values [rewards, pairs] of the newest evaluation."""
        self._saved: Path | None = None
        """The checkpoint of this very state, if there is one."""
        self._answered = 0
        self._boundary = self._state()
        """What a checkpoint says now: never the middle of a step."""

    def start_from(self, directory: Path) -> None:
        """Begin with a checkpoint's weights and a fresh optimizer."""
        load_weights(directory, self.spec, self.model)

    def resume(self, directory: Path) -> None:
        """Continue where a checkpoint of this run stopped."""
        state = load_training(directory, self.spec, self.model, self.optimizer)
        self.step = state.step
        self.meter.total_evaluations, self.meter.total_images = state.evaluations, state.images
        self.heldout.before = state.heldout_before
        self._skipped, self._bad_steps = state.skipped_updates, state.bad_steps
        self._evaluated, self._boundary = state.evaluated, state
        if state.threads is not None and self.model.device.type == "cpu":
            torch.set_num_threads(state.threads)

    def run(self) -> None:
        """Train to the last step. Raises Cancelled, Paused, RewardsFailed or NotFinite; what was written stays."""
        self.conclude_step(resumed=self.step > 0 and self._evaluated)
        while self.step < self.spec.training.max_steps:
            self.check()
            started = time.perf_counter()
            prompts = self.order.draw(self.step, self.spec.training.prompts_per_step)
            conditioning = self.model.encode(prompts)
            experience, ends, anchors = self.roll_out(prompts, conditioning)
            rewards, anchor_rewards = self.score(ends, prompts), self.score_anchors(anchors, prompts)
            advantages = self.algorithm.advantages(rewards, list(self.weights.values()))
            # From here to the end of `record` nothing may stop the run: weights and step must agree.
            update = self.update(conditioning, experience, advantages)
            self.record(prompts, rewards, anchor_rewards, advantages, update)
            self._step_seconds.append(time.perf_counter() - started)
            if not self._evaluated:
                self.keep_best_and_worst(prompts, ends, rewards)
            self._boundary = self._state()
            self.conclude_step()
        if self._values is None and self.step in self._evaluate_at:  # continued from the last step's own checkpoint
            _, self._values = self._draw_heldout()  # recorded and counted before that checkpoint was saved
        summary = self.heldout.summary(self._values) if self._values is not None else {}
        self.events.write(Finished(outcome="succeeded", step=self.step, heldout=summary))

    def conclude_step(self, resumed: bool = False) -> None:
        """The evaluation and the checkpoint due between two steps; none where a run was `resumed` after them."""
        if not self._evaluated:
            self.evaluate()
        request = self.control.checkpoint_request()
        if (self._checkpoint_due() and not resumed) or request > self._answered:
            self.checkpoint(request)

    def pause(self) -> None:
        """Save the policy as it was after the last whole step, and say that the run waits."""
        self.checkpoint(self.control.checkpoint_request())
        self.events.write(Finished(outcome="paused", step=self.step))

    @torch.no_grad()
    def roll_out(self, prompts: list[str], conditioning: Conditioning) -> tuple[Experience, Tensor, Tensor]:
        """Anchors, one perturbation per SDE step and sample, and every continuation's clean end."""
        self._progress("rollout")
        sampling, model, algorithm = self.spec.sampling, self.model, self.algorithm
        velocity = model.velocity(conditioning, self.size, sampling.guidance)
        noise = torch.cat([self._initial_noise(p) for p in range(len(prompts))])
        with self.meter.part("anchor"):
            anchors = algorithm.anchors(velocity, noise, self.spec.training.update_batch_size)
        self.meter.count("anchor", len(prompts) * sampling.steps)
        experience = algorithm.perturb(anchors, self._sde_noise(noise))
        with self.meter.part("continuation"), model.sampling_weights():
            ends, evaluations = algorithm.denoise(velocity, experience.samples, sampling.rollout_batch_size, self.check)
        self.meter.count("continuation", evaluations)
        return experience, ends, anchors.end

    def _initial_noise(self, prompt: int) -> Tensor:
        seed, step = self.spec.training.seed, self.step
        return self.model.noise(lambda shape: normal(shape, seed, "initial", step, prompt), self.size)

    def _sde_noise(self, like: Tensor) -> Tensor:
        """Noise [P, K, G, tokens, channels] of the SDE steps, each draw by its own address."""
        config, seed, step = self.spec.algorithm, self.spec.training.seed, self.step
        shape = tuple(like.shape[1:])
        draws = [
            normal(shape, seed, "sde", step, p, i, g)
            for p in range(len(like))
            for i in config.sde_steps
            for g in range(config.group_size)
        ]
        stacked = torch.stack(draws).reshape(len(like), len(config.sde_steps), config.group_size, *shape)
        return stacked.to(like)

    def score(self, ends: Tensor, prompts: list[str]) -> Tensor:
        """Rewards [rewards, P, K, G, Λ] of the continuations' ends."""
        self._progress("reward")
        groups = ends.shape[:4]
        each = [prompt for prompt in prompts for _ in range(math.prod(groups[1:]))]
        values = self.scorer.score(ends.flatten(0, 3), each, list(self.weights))
        self.scorer.refuse_all_missing(values)
        return values.reshape(len(self.weights), *groups)

    def score_anchors(self, anchors: Tensor, prompts: list[str]) -> Tensor:
        """Rewards [rewards, P] of the anchors' ends: what the policy draws without noise."""
        return self.scorer.score(anchors, prompts, list(self.weights))

    def update(self, conditioning: Conditioning, experience: Experience, advantages: Advantages) -> dict[str, float]:
        """One optimizer step; returns what it saw. A non-finite gradient is skipped and counted."""
        self._progress("update")
        training = self.spec.training
        velocity = self.model.velocity(conditioning, self.size, self.spec.sampling.guidance)
        rate = training.learning_rate * min(1.0, (self.step + 1) / max(1, training.warmup_steps))
        values = advantages.values.to(experience.samples)
        parts: list[LossPart] = []
        with self.meter.part("update"):
            self.optimizer.zero_grad(set_to_none=True)
            for part in self.algorithm.losses(velocity, experience, values, training.update_batch_size):
                part.loss.backward()  # type: ignore[no-untyped-call]
                parts.append(part)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, training.max_grad_norm).item()
            self._step_optimizer(rate, norm)
        self.meter.count("update", values.shape[0] * values.shape[1])
        ratios = torch.cat([part.ratios.flatten() for part in parts])
        return {
            "loss": sum(part.loss.item() for part in parts),
            "grad_norm": norm,
            "learning_rate": rate,
            "ratio/mean": ratios.mean().item(),
            "ratio/min": ratios.min().item(),
            "ratio/max": ratios.max().item(),
            "clip_fraction": torch.cat([part.clipped.flatten() for part in parts]).float().mean().item(),
            "skipped_updates": float(self._skipped),
        }

    def _step_optimizer(self, rate: float, norm: float) -> None:
        if not math.isfinite(norm):
            self._bad_steps += 1
            self._skipped += 1
            if self._bad_steps >= MAX_BAD_STEPS:
                raise NotFinite(
                    f"the gradient was not finite in {self._bad_steps} updates in a row, the last at step {self.step}"
                )
            return
        self._bad_steps = 0
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def record(
        self,
        prompts: list[str],
        rewards: Tensor,
        anchor_rewards: Tensor,
        advantages: Advantages,
        update: dict[str, float],
    ) -> None:
        """Count the step as done and write its metrics and reward groups."""
        self.step += 1
        self._evaluated, self._values, self._saved = self.step not in self._evaluate_at, None, None
        values = dict(update)
        for k, name in enumerate(self.weights):
            values[f"reward/{name}"] = rewards[k].nanmean().item()
            values[f"anchor/{name}"] = anchor_rewards[k].nanmean().item()
            values[f"spread/{name}"] = advantages.spread[k].nanmean().item()
            values[f"failures/{name}"] = float((~rewards[k].isfinite()).sum())
        values["zero_std_fraction"] = advantages.zero_std_fraction
        values["advantage/abs_mean"] = advantages.values.abs().mean().item()
        self._metrics(values | self.meter.take())
        self.events.write(RewardGroups(step=self.step, groups=self._groups(prompts, rewards)))

    def _groups(self, prompts: list[str], rewards: Tensor) -> list[RewardGroup]:
        config = self.spec.algorithm
        return [
            RewardGroup(
                prompt=prompt,
                prompt_index=p,
                sde_step=i,
                granularity=stride,
                reward=name,
                values=[finite(value) for value in rewards[r, p, k, :, s].tolist()],
            )
            for r, name in enumerate(self.weights)
            for p, prompt in enumerate(prompts)
            for k, i in enumerate(config.sde_steps)
            for s, stride in enumerate(config.granularities)
        ]

    def evaluate(self) -> None:
        """Held-out metrics and pictures of today's policy."""
        evaluation = self.spec.evaluation
        latents, values = self._draw_heldout()
        if not self.heldout.before:
            self.heldout.before = dict(zip(self.heldout.names, values.tolist(), strict=True))
        curve = values[:, : evaluation.pairs]
        metrics = {f"heldout/{name}": row.nanmean().item() for name, row in zip(self.heldout.names, curve, strict=True)}
        self._metrics(metrics | self.meter.take())
        kept = min(evaluation.samples, len(latents))
        for index, picture in enumerate(self.scorer.decode(latents[:kept], "heldout_") if kept else []):
            scores = {name: finite(values[r, index].item()) for r, name in enumerate(self.heldout.names)}
            self._sample("heldout", index, self.heldout.prompt(index), picture, scores)
        self._evaluated, self._values, self._saved = True, values, None
        self._boundary = self._state()

    def _draw_heldout(self) -> tuple[Tensor, Tensor]:
        """Latents and values [rewards, pairs] of today's policy; more pairs at the run's start and end."""
        self._progress("evaluation")
        evaluation = self.spec.evaluation
        ends = self.step in (0, self.spec.training.max_steps)
        pairs = max(evaluation.pairs, evaluation.final_pairs) if ends else evaluation.pairs
        return self.heldout.evaluate(pairs)

    def keep_best_and_worst(self, prompts: list[str], ends: Tensor, rewards: Tensor) -> None:
        """For each of the first prompts: the best and worst picture of its widest group, to show what is rewarded."""
        weights = torch.tensor(list(self.weights.values()))[:, None, None, None, None]
        totals = (rewards * weights).sum(dim=0)
        config = self.spec.algorithm
        for p, (k, s) in enumerate(widest_groups(totals)[: self.spec.evaluation.samples]):
            if k < 0:
                continue
            group = totals[p, k, :, s]
            best = torch.where(group.isfinite(), group, -torch.inf).argmax()
            worst = torch.where(group.isfinite(), group, torch.inf).argmin()
            chosen = [int(best), int(worst)]
            pictures = self.scorer.decode(ends[p, k, chosen, s], "heldout_")
            for kind, g, picture in zip(("best", "worst"), chosen, pictures, strict=True):
                scores = {name: finite(rewards[r, p, k, g, s].item()) for r, name in enumerate(self.weights)}
                self._sample(kind, p, prompts[p], picture, scores, config.sde_steps[k], config.granularities[s])

    def checkpoint(self, request: int = 0) -> None:
        """Save the policy after the last whole step, as an answer to `request` and all before it."""
        if self._saved is None:
            self._progress("checkpoint")
            root = self.events.directory / "checkpoints"
            self._saved = save_checkpoint(root, self.spec, self.model, self.optimizer, self._boundary)
        self._answered = request
        directory = self._saved.relative_to(self.events.directory).as_posix()
        self.events.write(CheckpointSaved(step=self.step, directory=directory, request=request))

    def _checkpoint_due(self) -> bool:
        every = self.spec.checkpoints.every
        last = self.step == self.spec.training.max_steps
        return last or bool(every and self.step > 0 and self.step % every == 0)

    def _state(self) -> TrainingState:
        return TrainingState(
            step=self.step,
            evaluations=self.meter.total_evaluations,
            images=self.meter.total_images,
            heldout_before=dict(self.heldout.before),
            skipped_updates=self._skipped,
            bad_steps=self._bad_steps,
            evaluated=self._evaluated,
            threads=torch.get_num_threads(),
        )

    def _metrics(self, values: dict[str, float]) -> None:
        self.events.write(Metrics(step=self.step, values={name: finite(value) for name, value in values.items()}))

    def _sample(
        self,
        kind: str,
        index: int,
        prompt: str,
        picture: Tensor,
        rewards: dict[str, float | None],
        sde_step: int | None = None,
        granularity: int | None = None,
    ) -> None:
        name = f"{self.step:06d}-{kind}-{index:03d}.png"
        file, sha256, size = write_png(self.events.directory, name, picture)
        self.events.write(
            Sample(
                step=self.step,
                kind=kind,
                index=index,
                prompt=prompt,
                rewards=rewards,
                sde_step=sde_step,
                granularity=granularity,
                file=file,
                sha256=sha256,
                size=size,
            )
        )

    def check(self) -> None:
        """Called between batches: stops a run that was asked to, and tells that a long phase is alive."""
        self.control.check()
        if time.monotonic() - self._last_progress >= PROGRESS_SECONDS:
            self._progress(self._phase)

    def _progress(self, phase: Phase) -> None:
        self._phase, self._last_progress = phase, time.monotonic()
        left = self.spec.training.max_steps - self.step
        lately = median(self._step_seconds[-20:]) if self._step_seconds else None
        eta = lately * left if lately is not None else None
        most = self.spec.training.max_steps
        self.events.write(Progress(step=self.step, max_steps=most, phase=phase, eta_seconds=eta, step_seconds=lately))
