"""The policy update: optimizer steps over a rollout's minibatches, the learning rate and the moving average."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.contracts.runs import Training
from worker.engine.grpo.algorithms.base import Algorithm
from worker.engine.grpo.loss import LossPart, RolloutBatch, losses
from worker.engine.grpo.noise import permutation
from worker.engine.grpo.solvers import Velocity
from worker.engine.models.sharding import whole
from worker.engine.training.distributed import Distributed


class NotFinite(Exception):
    """Raised when the gradient was not finite in `training.max_nonfinite_updates` consecutive updates."""


def learning_rate(training: Training, step: int) -> float:
    """Return the learning rate at training step `step`, counted from 0.

    After a linear warm-up, it is constant or decays linearly or along a cosine.
    """
    warmup = training.warmup_steps
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    end = training.lr_end_factor
    done = min(1.0, (step - warmup) / max(1, training.max_steps - warmup))
    match training.lr_schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = 1.0 - (1.0 - end) * done
        case "cosine":
            share = end + (1.0 - end) * (1.0 + math.cos(math.pi * done)) / 2.0
    return training.learning_rate * share


class Ema:
    """Exponential moving average of the trained weights: ē ← d·ē + (1−d)·w after each update."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self.reset()

    def reset(self) -> None:
        """Restart the average from the current weights."""
        self._average = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights to the average. Must be called after each update."""
        for average, parameter in zip(self._average, self._parameters, strict=True):
            average.lerp_(parameter, 1.0 - self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the model's weights with the average inside the block, then restore them bit for bit."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        try:
            self._copy(self._average)
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, tensors: Sequence[Tensor]) -> None:
        for parameter, tensor in zip(self._parameters, tensors, strict=True):
            parameter.copy_(tensor)


class PolicyOptimizer:
    """Updates the trained parameters with AdamW, a learning rate schedule and an optional moving average."""

    def __init__(
        self, training: Training, algorithm: Algorithm, parameters: list[nn.Parameter], distributed: Distributed
    ) -> None:
        self.training, self.algorithm, self.parameters = training, algorithm, parameters
        self._distributed = distributed
        self.adamw = torch.optim.AdamW(
            parameters,
            lr=training.learning_rate,
            betas=(training.beta1, training.beta2),
            weight_decay=training.weight_decay,
        )
        self.ema = Ema(parameters, training.ema_decay) if training.ema_decay is not None else None
        self._skipped = 0
        self._skipped_in_a_row = 0

    def update(
        self,
        step: int,
        policy: Velocity,
        batch: RolloutBatch,
        advantages: Tensor,
        rows: int,
        reference: Velocity | None = None,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Take the optimizer steps of training step `step` and return their metrics.

        batch: this process's share of the rollout. advantages: flat, indexed by `batch.members`. heartbeat: called
        after each forward and backward pass of `rows` states. Raises NotFinite.
        """
        algorithm = self.algorithm
        rate, share = learning_rate(self.training, step), 1.0 / self._distributed.world_size
        parts: list[LossPart] = []
        norms = []
        for minibatch in self._minibatches(step, batch):
            for part in losses(
                policy, minibatch, advantages, algorithm.transitions, algorithm.objective, rows, share, reference
            ):
                part.loss.backward()  # type: ignore[no-untyped-call]
                parts.append(part)
                heartbeat()
            self._distributed.reduce_gradients(self.parameters)
            norm = whole(torch.nn.utils.clip_grad_norm_(self.parameters, self.training.max_grad_norm)).item()
            norms.append(norm)
            self.step(step, rate, norm)
            self.adamw.zero_grad(set_to_none=True)  # the next rollout needs their memory
        metrics = self._metrics(parts)
        if reference is not None:
            metrics["kl"] = self._gather([part.divergence for part in parts]).mean().item()
        return metrics | {
            "grad_norm": sum(norms) / len(norms),
            "learning_rate": rate,
            "skipped_updates": float(self._skipped),
        }

    def _minibatches(self, step: int, batch: RolloutBatch) -> list[RolloutBatch]:
        count, pieces = self.algorithm.updates, self.algorithm.pieces
        prompts = self._distributed.shard(self.training.prompts_per_step)
        orders = [permutation(pieces, self.training.seed, "minibatches", step, p) for p in prompts if count > 1]
        return batch.minibatches(count, orders, prompts.start)

    def _gather(self, parts: Sequence[Tensor]) -> Tensor:
        """Gather and flatten the values of all processes, which must all have the same number of values."""
        own = torch.cat([part.flatten() for part in parts])
        return self._distributed.all_gather(own, len(own) * self._distributed.world_size)

    def _metrics(self, parts: list[LossPart]) -> dict[str, float]:
        ratios = self._gather([part.ratios for part in parts])
        first = (parts[0].ratios - 1.0).abs().max().reshape(1)
        loss = sum(self._distributed.all_gather_object(sum(part.loss.item() for part in parts)))
        return {
            "loss": loss / self.algorithm.updates,
            "ratio/mean": ratios.mean().item(),
            "ratio/min": ratios.min().item(),
            "ratio/max": ratios.max().item(),
            "ratio/first_deviation": self._gather([first]).max().item(),
            "clip_fraction": self._gather([part.clipped.float() for part in parts]).mean().item(),
        }

    def step(self, step: int, rate: float, norm: float) -> None:
        """Take one optimizer step, or skip it if the gradient norm is not finite.

        Raises NotFinite once `max_nonfinite_updates` consecutive steps have been skipped.
        """
        if not math.isfinite(norm):
            self._skipped_in_a_row += 1
            self._skipped += 1
            if self._skipped_in_a_row >= self.training.max_nonfinite_updates:
                raise NotFinite(
                    f"the gradient was not finite in {self._skipped_in_a_row} consecutive updates, up to step {step}"
                )
            return
        self._skipped_in_a_row = 0
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        if self.ema is not None:
            self.ema.update()

    @contextmanager
    def published_weights(self) -> Iterator[None]:
        """Use the weights for evaluation and publication inside the block: the moving average, if there is one."""
        if self.ema is None:
            yield
            return
        with self.ema.applied():
            yield

    def state_dict(self) -> dict[str, Any]:
        """Return the counters of skipped updates. Checkpoints store the tensors separately."""
        return {"skipped": self._skipped, "skipped_in_a_row": self._skipped_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._skipped, self._skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]


def save_inputs(path: Path, prompts: list[str], batch: RolloutBatch, advantages: Tensor) -> None:
    """Write the inputs of a failed update to a safetensors file for inspection."""
    tensors = {
        "states": batch.states,
        "samples": batch.samples,
        "old_log_probs": batch.old_log_probs,
        "sde_steps": torch.tensor(batch.sde_steps),
        "prompts": torch.tensor(batch.prompts),
        "members": batch.members,
        "advantages": advantages,
    }
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={str(index): prompt for index, prompt in enumerate(prompts)})
