"""The training loop. `Trainer.run` follows the algorithm in the paper and uses its terms."""

import torch
from torch import Tensor
from torch.distributed.checkpoint.stateful import Stateful

from service.contracts.attempt_files import ENCODINGS
from service.contracts.events import Cause, Finished
from service.contracts.runs import RunSpec
from service.contracts.schedule import sigma_nodes
from worker.engine.grpo.advantages import Advantages
from worker.engine.grpo.algorithms import ALGORITHMS
from worker.engine.grpo.loss import RolloutBatch
from worker.engine.models import attention
from worker.engine.models.base import Conditioning, FlowModel
from worker.engine.models.prompt_cache import Encodings
from worker.engine.rewards.base import Reward
from worker.engine.training.checkpoint import Checkpointer
from worker.engine.training.cost_meter import CostMeter
from worker.engine.training.distributed import Distributed
from worker.engine.training.early_stopping import EarlyStopping
from worker.engine.training.event_log import EventWriter
from worker.engine.training.heldout_evaluator import HeldoutEvaluator
from worker.engine.training.metrics_logger import MetricsLogger
from worker.engine.training.optimizer import NotFinite, PolicyOptimizer, save_inputs
from worker.engine.training.progress import ProgressReporter
from worker.engine.training.prompt_sampler import PromptSampler
from worker.engine.training.reward_failures import RewardFailureMonitor
from worker.engine.training.reward_scorer import RewardScorer
from worker.engine.training.rollout_collector import RolloutCollector
from worker.engine.training.run_context import RunContext


class Trainer:
    """Executes one alignment run, from its spec to its last checkpoint.

    Writes events and checkpoints to the directory of `events`.
    """

    def __init__(
        self,
        spec: RunSpec,
        model: FlowModel,
        rewards: dict[str, Reward],
        prompts: tuple[str, ...],
        heldout_prompts: tuple[str, ...],
        events: EventWriter,
        distributed: Distributed,
    ) -> None:
        training, sampling = spec.training, spec.sampling
        self.spec, self.model, self.events, self.distributed = spec, model, events, distributed
        attention.differentiable()
        sigmas = sigma_nodes(sampling.steps, sampling.shift)
        self.algorithm = ALGORITHMS[spec.algorithm.name](spec.algorithm, sigmas, sampling.shift, training.seed)
        self.prompts = PromptSampler(prompts, training.sampler_seed)
        self.progress = ProgressReporter(events, training.max_steps)
        self.meter = CostMeter(distributed, model.entry.passes(sampling.guidance))
        self.context = context = RunContext(spec, model, events, distributed, self.progress, self.meter)
        self.scorer = RewardScorer(
            model,
            rewards,
            context.size,
            sampling.decode_batch_size,
            self.meter,
            self.progress.check,
            spec.resources.offload_rewards,
        )
        self.failures = RewardFailureMonitor(training, self.scorer, distributed)
        self.encodings = Encodings.of(model, events.directory / ENCODINGS / str(distributed.rank))
        if training.adapter == "lora":
            parameters = model.train_lora(training.lora_rank, training.lora_alpha, training.seed)
        else:
            parameters = model.train_all(distributed.device_mesh())
        self.optimizer = PolicyOptimizer(training, self.algorithm, parameters, distributed)
        rows = self.algorithm.exact_rows(len(context.shard), training.update_batch_size)
        self.rollout = RolloutCollector(context, self.algorithm, self.scorer, self.failures, rows)
        self.evaluator = HeldoutEvaluator(
            context, heldout_prompts, self.encodings, self.scorer, self.failures, self.optimizer
        )
        self.early_stopping = EarlyStopping(spec)
        self.logger = MetricsLogger(context, self.scorer, self.algorithm)
        state: dict[str, Stateful] = {
            "progress": self.progress,
            "cost": self.meter,
            "optimizer": self.optimizer,
            "evaluator": self.evaluator,
            "early_stopping": self.early_stopping,
            "reward_failures": self.failures,
        }
        self.checkpoints = Checkpointer(context, self.optimizer, state)

    @property
    def step(self) -> int:
        """The number of completed training steps."""
        return self.progress.step

    @property
    def finished(self) -> bool:
        """Whether the last step is complete or early stopping ends the run."""
        return self.step >= self.spec.training.max_steps or self.early_stopping.should_stop_early

    def run(self) -> None:
        """Train until the run is finished. If an exception is raised, the files written so far remain.

        Raises Cancelled, Paused, RewardsUnavailable, RewardsFailed or NotFinite.
        """
        if self.step:
            self.progress.report(self.progress.phase)
            self.logger.log(self.meter.totals())  # another attempt may have logged different totals for this step
        self.conclude_step(resumed=self.step > 0 and not self.evaluator.due)
        shard = self.context.shard
        while not self.finished:
            with self.distributed.synchronized_stop():
                self.progress.check()
            self.progress.start_step()
            prompts = self.prompts.sample(self.step, self.spec.training.prompts_per_step)
            own = prompts[shard.start : shard.stop]
            conditioning = self.encodings.encode(own, ahead=self._upcoming_prompts)
            rollout = self.rollout.sample(own, conditioning)
            rewards = self.rollout.score(rollout.ends, own)
            anchor_rewards = self.rollout.score_anchors(rollout.anchors, own)
            advantages = self.algorithm.advantages(rewards, list(self.context.rewards.values()))
            # Nothing may stop the run between here and `log_step`: the weights must match the step count.
            update = self.update_policy(own, conditioning, rollout.batch, advantages)
            self.progress.finish_step()
            self.evaluator.policy_changed(self.step)
            self.logger.log_step(prompts, rewards, anchor_rewards, advantages, update)
            if self.evaluator.due:
                self.logger.log_best_and_worst(prompts, rollout.ends, rewards)
                self.logger.log_group_images(prompts[0], rollout.ends, rewards)
            del rollout  # frees memory for the next step
            self.checkpoints.snapshot()
            self.conclude_step()
        summary = self.evaluator.final_summary()
        self.events.write(Finished(outcome="succeeded", step=self.step, heldout=summary))

    def conclude_step(self, resumed: bool = False) -> None:
        """After a step, evaluate the policy and save a checkpoint, each only if it is due.

        resumed: whether the run was resumed from a checkpoint of this step, which need not be saved again.
        """
        if self.evaluator.due:
            self.evaluate()
        self.checkpoints.save_if_due(self.finished, self.early_stopping.best_value(self.step), resumed)

    def evaluate(self) -> None:
        """Evaluate the current policy on held-out prompts and log the results."""
        latents, values = self.evaluator.evaluate()
        metrics = self.evaluator.metrics(values)
        self.logger.log({**metrics, **self.meter.take()})
        self.early_stopping.update(self.step, metrics)
        self.logger.log_heldout_images(latents, values, self.evaluator)
        self.checkpoints.snapshot()

    def update_policy(
        self, prompts: list[str], conditioning: Conditioning, batch: RolloutBatch, advantages: Advantages
    ) -> dict[str, float]:
        """Take the optimizer steps on this process's rollout and return their metrics.

        Raises NotFinite after saving the inputs of the failed update.
        """
        self.progress.report("update")
        velocity = self.model.velocity(conditioning, self.context.size, self.spec.sampling.guidance)
        shard = self.context.shard
        values = advantages.values[shard.start : shard.stop].to(batch.samples).flatten()

        @torch.no_grad()
        def base(latents: Tensor, sigma: Tensor, indices: list[int]) -> Tensor:
            with self.model.reference_weights():
                return velocity(latents, sigma, indices)

        reference = base if self.algorithm.objective.kl_weight else None
        rows, heartbeat = self.rollout.rows, self.progress.heartbeat
        try:
            with self.meter.part("update"):
                metrics = self.optimizer.update(self.step, velocity, batch, values, rows, reference, heartbeat)
        except NotFinite as error:
            rank = f"-rank-{self.distributed.rank}" if self.distributed.world_size > 1 else ""
            file = self.events.directory / f"bad-step-{self.step:06d}{rank}.safetensors"
            save_inputs(file, prompts, batch, values)
            raise NotFinite(f"{error}; the inputs of the last update were saved to {file}") from error
        self.meter.count("update", len(batch.states))
        if reference is not None:
            self.meter.count("reference", len(batch.states))
        return metrics

    def pause(self, cause: Cause | None = None) -> None:
        """Save a checkpoint of the last complete step and finish the run as paused.

        cause: the reason, or None if a user requested the pause.
        """
        self.checkpoints.save(self.early_stopping.best_value(self.step))
        self.events.write(Finished(outcome="paused", step=self.step, cause=cause))

    def _upcoming_prompts(self) -> list[str]:
        """Return this process's prompts for the next steps."""
        training = self.spec.training
        return self.prompts.upcoming(self.step, training.prompts_per_step, self.context.shard, training.max_steps)
