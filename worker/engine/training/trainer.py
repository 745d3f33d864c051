"""The training loop. `Trainer.run` reads like the algorithm; each line is a call with the paper's name for it."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from service.contracts.events import (
    Cause,
    CheckpointSaved,
    Finished,
    Metrics,
    Phase,
    Progress,
    RewardGroups,
)
from service.contracts.jobs import ENCODINGS
from service.contracts.plan import heldout_steps
from service.contracts.runs import RunSpec
from service.contracts.schedule import sigma_nodes
from worker.engine.cpu_parallel import Lanes
from worker.engine.grpo.advantages import Advantages
from worker.engine.grpo.algorithms import ALGORITHMS
from worker.engine.grpo.algorithms.base import Rollout, Sampler
from worker.engine.grpo.loss import Experience
from worker.engine.grpo.noise import StepNoise
from worker.engine.grpo.rollout import Velocity
from worker.engine.keepalive import PROGRESS_SECONDS
from worker.engine.models import attention
from worker.engine.models.base import Conditioning, FlowModel, ImageSize
from worker.engine.models.compile import compiled
from worker.engine.models.prompt_cache import Encodings
from worker.engine.rewards.base import Reward
from worker.engine.training.checkpoint import TrainingState, load_training, load_weights, save_checkpoint
from worker.engine.training.cost_meter import Meter
from worker.engine.training.distributed import Ranks
from worker.engine.training.early_stopping import Best
from worker.engine.training.evaluator import HeldOut
from worker.engine.training.event_log import ControlFile, EventWriter, finite
from worker.engine.training.metrics_logger import best_and_worst, reward_groups, reward_metrics, show, widest_groups
from worker.engine.training.optimizer import NotFinite, Updater, save_inputs
from worker.engine.training.prompt_sampler import PromptOrder
from worker.engine.training.reward_failures import RewardWatch
from worker.engine.training.reward_scorer import Batch, Scorer


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
        ranks: Ranks,
    ) -> None:
        self.spec, self.model, self.events, self.ranks = spec, model, events, ranks
        self.control = ControlFile(events.directory)
        self.size = ImageSize(spec.sampling.width, spec.sampling.height)
        training = spec.training
        self.sigmas = sigma_nodes(spec.sampling.steps, spec.sampling.shift)
        make = ALGORITHMS[spec.algorithm.name]
        self.algorithm = make(spec.algorithm, self.sigmas, spec.sampling.shift, training.seed)
        self.weights = {reward.name: reward.weight for reward in spec.rewards}
        self.order = PromptOrder(prompts, training.sampler_seed)
        self.places = ranks.share(training.prompts_per_step)
        """Which of a step's prompts are this rank's."""
        attention.differentiable()
        self.meter = Meter(model.device, model.entry.passes(spec.sampling.guidance))
        self.scorer = Scorer(
            model,
            rewards,
            self.size,
            spec.sampling.decode_batch_size,
            self.meter,
            self.check,
            spec.resources.offload_rewards,
        )
        self.watch = RewardWatch(training, self.scorer, ranks)
        self._begun: list[Batch] = []
        """Images of this step that servers are asked about already, in order."""
        self.encodings = Encodings.of(model, events.directory / ENCODINGS / str(ranks.rank))
        self.heldout = HeldOut(
            spec, model, heldout_prompts, self.scorer, self.meter, self.sigmas, ranks, self.encodings
        )
        if training.adapter == "lora":
            parameters = model.train_lora(training.lora_rank, training.lora_alpha, training.seed)
        else:
            parameters = model.train_all(ranks.mesh())
        self.updater = Updater(training, self.algorithm, parameters, ranks)
        self.rows = self.algorithm.exact_rows(len(self.places), training.update_batch_size)
        self.step = 0
        self._began = time.perf_counter()
        self._elapsed = 0.0
        """Seconds of training steps so far, over all attempts."""
        self._step_seconds: list[float] = []
        self._phase: Phase = "loading"
        self._last_progress = 0.0
        self._evaluate_at = frozenset(heldout_steps(spec))
        self._evaluated = 0 not in self._evaluate_at
        self._best, self._rising = Best(), Best()
        """Of `checkpoints.best`, and of `heldout.early_stop`."""
        self._is_best = False
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
        if self.updater.ema is not None:
            self.updater.ema.reset()

    def resume(self, directory: Path) -> None:
        """Continue where a checkpoint of this run stopped."""
        state = load_training(directory, self.spec, self.model, self.updater)
        self.step, self._elapsed = state.step, state.elapsed_seconds
        if self.ranks.leads:  # each rank counts its own work
            self.meter.total_nfe, self.meter.total_images = state.nfe, state.images
            self.meter.training_nfe = state.training_nfe
        self.heldout.before = state.heldout_before
        self._best, self._rising = Best(*state.best), Best(*state.rising)
        self.watch.streaks = dict(state.missing_steps)
        self._evaluated, self._boundary = state.evaluated, state
        alike = self.model.device.type == "cpu" and state.processes == self.ranks.world
        if state.threads is not None and alike:
            torch.set_num_threads(state.threads)

    def run(self) -> None:
        """Train to the last step. Raises Cancelled, Paused, RewardsAway, RewardsFailed or NotFinite; what was written
        stays.
        """
        if self.step:
            self._progress(self._phase)  # what loading said is of no step, and there may be none left to say more
            # The newest attempt's values count, and one between may have got no further than this step's rollout.
            self._metrics(self.meter.totals())
        self.conclude_step(resumed=self.step > 0 and self._evaluated)
        while self.step < self.spec.training.max_steps and not self._risen():
            with self.ranks.together():
                self.check()
            self._began = time.perf_counter()
            prompts = self.order.draw(self.step, self.spec.training.prompts_per_step)
            own = prompts[self.places.start : self.places.stop]
            conditioning = self.encodings.encode(own, ahead=self._coming)
            rollout = self.roll_out(own, conditioning)
            rewards, anchor_rewards = self.score(rollout.ends, own), self.score_anchors(rollout.anchors, own)
            advantages = self.algorithm.advantages(rewards, list(self.weights.values()))
            # From here to the end of `record` nothing may stop the run: weights and step must agree.
            update = self.update(own, conditioning, rollout.experience, advantages)
            self.record(prompts, rewards, anchor_rewards, advantages, update)
            if not self._evaluated:
                self.keep_best_and_worst(prompts, rollout.ends, rewards)
            del rollout  # what is drawn next has use for its memory
            self._boundary = self._state()
            self.conclude_step()
        if self._values is None and self._ends_here():  # continued from the last step's own checkpoint
            _, self._values = self._draw_heldout()  # recorded and counted before that checkpoint was saved
        summary = self.heldout.summary(self._values) if self._values is not None else {}
        self.events.write(Finished(outcome="succeeded", step=self.step, heldout=summary))

    def _coming(self) -> list[str]:
        """This rank's prompts of the steps to come."""
        training = self.spec.training
        return self.order.coming(self.step, training.prompts_per_step, self.places, training.max_steps)

    def conclude_step(self, resumed: bool = False) -> None:
        """The evaluation and the checkpoint due between two steps; none where a run was `resumed` after them."""
        if not self._evaluated:
            self.evaluate()
        request = self.ranks.agree(self.control.checkpoint_request())
        if ((self._checkpoint_due() or self._is_best) and not resumed) or request > self._answered:
            self.checkpoint(request)

    def pause(self, cause: Cause | None = None) -> None:
        """Save the policy as it was after the last whole step, and say that the run waits, and why if nobody asked."""
        self.checkpoint(self.ranks.agree(self.control.checkpoint_request()))
        self.events.write(Finished(outcome="paused", step=self.step, cause=cause))

    @torch.no_grad()
    def roll_out(self, prompts: list[str], conditioning: Conditioning) -> Rollout:
        """Groups of samples with the policy's own log-probabilities, and their clean ends, of this rank's prompts."""
        self._progress("rollout")
        sampling, model = self.spec.sampling, self.model
        velocity = model.velocity(conditioning, self.size, sampling.guidance)
        rows = Lanes.on(model.device, sampling.rollout_batch_size).batch_size

        @contextmanager
        def fast() -> Iterator[Velocity]:
            compiling = compiled(model.transformer, velocity, rows) if sampling.compile else nullcontext(velocity)
            with model.sampling_weights(), attention.fastest(), compiling as fastest:
                yield fastest

        self._begun = []

        def ask(done: range, ends: Tensor) -> None:
            each = self._each([prompts[p] for p in done], ends)
            self._begun += self.scorer.begin(ends.flatten(0, 3), each, list(self.weights))

        done = ask if self.scorer.asks(list(self.weights)) else None
        sampler = Sampler(velocity, self.rows, fast, sampling.rollout_batch_size, self.meter, self.check, done)
        noise = StepNoise(
            self.spec.training.seed,
            self.step,
            packed=lambda draw: model.noise(draw, self.size),
            shape=model.packed_shape(self.size),
            first_prompt=self.places.start,
        )
        with model.gathered(), self.ranks.together():
            return self.algorithm.roll_out(self.step, len(prompts), noise, sampler)

    def score(self, ends: Tensor, prompts: list[str]) -> Tensor:
        """Rewards [rewards, P, K, G, Λ] of all ranks' continuations; `ends` and `prompts` are this one's."""
        self._progress("reward")
        names, groups = list(self.weights), ends.shape[:4]
        with self.ranks.together():
            begun, self._begun = self._begun, []
            begun = begun or self.scorer.begin(ends.flatten(0, 3), self._each(prompts, ends), names)
            values = self.scorer.finish(begun, names)
        rewards = self._of_all(values.reshape(len(names), *groups))
        drawn = self.ranks.whole(ends.isfinite().flatten(4).all(dim=-1).float().cpu(), rewards.shape[1])
        self.watch.judge(rewards.flatten(1), names, drawn.flatten() > 0)
        return rewards

    @staticmethod
    def _each(prompts: list[str], ends: Tensor) -> list[str]:
        """The prompt of each of the flattened `ends` [P, K, G, Λ, …]."""
        return [prompt for prompt in prompts for _ in range(math.prod(ends.shape[1:4]))]

    def score_anchors(self, anchors: Tensor | None, prompts: list[str]) -> Tensor | None:
        """Rewards [rewards, P] of the anchors' ends, what the policy draws without noise; None where there are none."""
        if anchors is None:
            return None
        with self.ranks.together():
            values = self.scorer.score(anchors, prompts, list(self.weights))
        return self._of_all(values)

    def _of_all(self, rewards: Tensor) -> Tensor:
        """Rewards [rewards, P, …] of all prompts of the step from those of this rank's."""
        return self.ranks.whole(rewards, self.spec.training.prompts_per_step, dim=1)

    def update(
        self, prompts: list[str], conditioning: Conditioning, experience: Experience, advantages: Advantages
    ) -> dict[str, float]:
        """The optimizer steps on this rank's rollout; returns what all saw. Raises NotFinite, once inputs are saved."""
        self._progress("update")
        velocity = self.model.velocity(conditioning, self.size, self.spec.sampling.guidance)
        values = advantages.values[self.places.start : self.places.stop].to(experience.samples).flatten()

        @torch.no_grad()
        def base(latents: Tensor, sigma: Tensor, indices: list[int]) -> Tensor:
            with self.model.reference_weights():
                return velocity(latents, sigma, indices)

        reference = base if self.algorithm.objective.kl_weight else None
        try:
            with self.meter.part("update"):
                seen = self.updater.update(self.step, velocity, experience, values, self.rows, reference, self._alive)
        except NotFinite as error:
            name = f"bad-step-{self.step:06d}" + (f"-rank-{self.ranks.rank}" if self.ranks.world > 1 else "")
            file = self.events.directory / f"{name}.safetensors"
            save_inputs(file, prompts, experience, values)
            raise NotFinite(f"{error}; what the last one was given is in {file} on the worker") from error
        self.meter.count("update", len(experience.states))
        if reference is not None:
            self.meter.count("reference", len(experience.states))
        return seen

    def record(
        self,
        prompts: list[str],
        rewards: Tensor,
        anchor_rewards: Tensor | None,
        advantages: Advantages,
        update: dict[str, float],
    ) -> None:
        """Count the step as done and write its metrics and reward groups."""
        self.step += 1
        self._evaluated, self._values, self._saved = self.step not in self._evaluate_at, None, None
        self._is_best = False
        self._step_seconds.append(time.perf_counter() - self._began)
        self._elapsed += self._step_seconds[-1]
        names, missing = list(self.weights), self.ranks.tell(self.scorer.take_missing())
        metrics = reward_metrics(names, rewards, anchor_rewards, advantages, missing)
        self._metrics(update | metrics | self.meter.take())
        groups = reward_groups(names, prompts, rewards, self.algorithm)
        self.events.write(RewardGroups(step=self.step, groups=groups))

    def evaluate(self) -> None:
        """Held-out metrics and images of today's policy."""
        heldout = self.spec.heldout
        latents, values = self._draw_heldout(heldout.samples)
        self.watch.refuse_silent(values, self.heldout.names)
        self.scorer.take_missing()  # what is counted is trained on
        if not self.heldout.before:
            self.heldout.before = dict(zip(self.heldout.names, values.tolist(), strict=True))
        curve = values[:, : heldout.pairs]
        metrics = {f"heldout/{name}": row.nanmean().item() for name, row in zip(self.heldout.names, curve, strict=True)}
        self._metrics(metrics | self.meter.take())
        self._judge(metrics)
        kept = min(heldout.samples, len(latents))
        shows = kept > 0 and self.ranks.leads
        for index, image in enumerate(self.scorer.decode(latents[:kept], "heldout_") if shows else []):
            scores = {name: finite(values[r, index].item()) for r, name in enumerate(self.heldout.names)}
            prompt = self.heldout.prompt(index)
            show(self.events, image, step=self.step, kind="heldout", index=index, prompt=prompt, rewards=scores)
        self._evaluated, self._values, self._saved = True, values, None
        self._boundary = self._state()

    def _judge(self, metrics: dict[str, float]) -> None:
        """Whether this is the policy to keep, and whether the run still rises."""
        if (best := self.spec.checkpoints.best) is not None:
            self._is_best = self._best.see(metrics[f"heldout/{best}"])
        if (stop := self.spec.heldout.early_stop) is not None:
            self._rising.see(metrics[f"heldout/{stop.reward}"], stop.min_delta)

    def _risen(self) -> bool:
        """Whether nothing more is to be hoped for, by `heldout.early_stop`."""
        stop = self.spec.heldout.early_stop
        return stop is not None and self._rising.since >= stop.patience

    def _ends_here(self) -> bool:
        """Whether this step's evaluation is the run's last."""
        return self.step in self._evaluate_at and (self.step == self.spec.training.max_steps or self._risen())

    def _draw_heldout(self, kept: int = 0) -> tuple[Tensor, Tensor]:
        """The first `kept` latents and values [rewards, pairs] of today's policy; more pairs at the start and end."""
        self._progress("evaluation")
        heldout = self.spec.heldout
        ends = self.step in (0, self.spec.training.max_steps)
        pairs = max(heldout.pairs, heldout.final_pairs) if ends else heldout.pairs
        with self.updater.offered_weights():
            return self.heldout.evaluate(pairs, kept)

    def keep_best_and_worst(self, prompts: list[str], ends: Tensor, rewards: Tensor) -> None:
        """For each of the first prompts: the best and worst image of its widest group, to show what is rewarded."""
        weights = torch.tensor(list(self.weights.values()))[:, None, None, None, None]
        totals = (rewards * weights).sum(dim=0)
        places, strides = self.algorithm.places, self.algorithm.granularities
        shown = [(p, k, s) for p, (k, s) in enumerate(widest_groups(totals)[: self.spec.heldout.samples]) if k >= 0]
        chosen = [best_and_worst(totals[p, k, :, s]) for p, k, s in shown]
        latents = ends.new_zeros(len(shown), 2, *ends.shape[4:])
        for row, ((p, k, s), pair) in enumerate(zip(shown, chosen, strict=True)):
            if p in self.places:
                latents[row] = ends[p - self.places.start, k, pair, s]
        latents = self.ranks.sum(latents)
        for row, ((p, k, s), pair) in enumerate(zip(shown, chosen, strict=True)):
            if not self.ranks.leads:
                break
            images = self.scorer.decode(latents[row], "heldout_")
            for kind, g, image in zip(("best", "worst"), pair, images, strict=True):
                scores = {name: finite(rewards[r, p, k, g, s].item()) for r, name in enumerate(self.weights)}
                drawn = {"sde_step": places[k], "granularity": strides[s]}
                show(self.events, image, step=self.step, kind=kind, index=p, prompt=prompts[p], rewards=scores, **drawn)

    def checkpoint(self, request: int = 0) -> None:
        """Save the policy after the last whole step, as an answer to `request` and all before it."""
        if self._saved is None:
            self._progress("checkpoint")
            root = self.events.directory / "checkpoints"
            self._saved = save_checkpoint(root, self.spec, self.model, self.updater, self._boundary, self.ranks.leads)
        self._answered = request
        directory = self._saved.relative_to(self.events.directory).as_posix()
        best = self._best.value if self._is_best else None
        self.events.write(CheckpointSaved(step=self.step, directory=directory, request=request, best=best))

    def _checkpoint_due(self) -> bool:
        every = self.spec.checkpoints.every
        last = self.step == self.spec.training.max_steps or self._risen()
        return last or bool(every and self.step > 0 and self.step % every == 0)

    def _state(self) -> TrainingState:
        meter = self.meter
        work = self.ranks.tell((meter.total_nfe, meter.total_images, meter.training_nfe))
        nfe, images, training_nfe = (sum(each) for each in zip(*work, strict=True))
        return TrainingState(
            step=self.step,
            nfe=nfe,
            images=images,
            heldout_before=dict(self.heldout.before),
            skipped_updates=self.updater.skipped,
            bad_steps=self.updater.bad_steps,
            training_nfe=training_nfe,
            elapsed_seconds=self._elapsed,
            best=(self._best.value, self._best.since),
            rising=(self._rising.value, self._rising.since),
            missing_steps=dict(self.watch.streaks),
            evaluated=self._evaluated,
            threads=torch.get_num_threads(),
            processes=self.ranks.world,
        )

    def _metrics(self, values: dict[str, float]) -> None:
        values |= {"elapsed/seconds": self._elapsed, "elapsed/nfe": float(self.meter.training_nfe)}
        values = self.ranks.combine(values)
        self.events.write(Metrics(step=self.step, values={name: finite(value) for name, value in values.items()}))

    def check(self) -> None:
        """Called between batches: stops a run that was asked to, and tells that a long phase is alive."""
        self.control.check()
        self._alive()

    def _alive(self) -> None:
        """Tell that a long phase is alive, where nothing may stop the run."""
        if time.monotonic() - self._last_progress >= PROGRESS_SECONDS:
            self._progress(self._phase)

    def _progress(self, phase: Phase) -> None:
        self._phase, self._last_progress = phase, time.monotonic()
        left = self.spec.training.max_steps - self.step
        lately = median(self._step_seconds[-20:]) if self._step_seconds else None
        eta = lately * left if lately is not None else None
        most = self.spec.training.max_steps
        self.events.write(Progress(step=self.step, max_steps=most, phase=phase, eta_seconds=eta, step_seconds=lately))
