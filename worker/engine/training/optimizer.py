"""The update: several optimizer steps over a rollout's shares, gradients that are not finite left out."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.contracts.runs import Training
from worker.engine.grpo.algorithms.base import Algorithm
from worker.engine.grpo.loss import Experience, LossPart, losses
from worker.engine.grpo.noise import permutation
from worker.engine.grpo.rollout import Velocity
from worker.engine.models.sharding import whole
from worker.engine.training.distributed import Ranks
from worker.engine.training.ema import Ema
from worker.engine.training.lr_schedule import learning_rate


class NotFinite(Exception):
    """The model's losses or gradients are not finite, again and again."""


class Updater:
    """Optimizer, learning rate and moving average of what is trained."""

    def __init__(self, training: Training, algorithm: Algorithm, parameters: list[nn.Parameter], ranks: Ranks) -> None:
        self.training, self.algorithm, self.parameters, self.ranks = training, algorithm, parameters, ranks
        self.optimizer = torch.optim.AdamW(
            parameters,
            lr=training.learning_rate,
            betas=(training.beta1, training.beta2),
            weight_decay=training.weight_decay,
        )
        self.ema = Ema(parameters, training.ema_decay) if training.ema_decay is not None else None
        self.bad_steps = 0
        """Updates skipped in a row."""
        self.skipped = 0

    def update(
        self,
        step: int,
        policy: Velocity,
        experience: Experience,
        advantages: Tensor,
        rows: int,
        reference: Velocity | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """The optimizer steps of training step `step`; returns what they saw.

        advantages: flat, as `experience.members` points into them; of this rank's prompts, like `experience`. `tick` is
        called between batches. Raises NotFinite.
        """
        algorithm, objective = self.algorithm, self.algorithm.objective
        rate, share = learning_rate(self.training, step), 1.0 / self.ranks.world
        parts: list[LossPart] = []
        norms = []
        for batch in self._minibatches(step, experience):
            made = losses(policy, batch, advantages, algorithm.transitions, objective, rows, share, reference)
            for part in made:
                part.loss.backward()  # type: ignore[no-untyped-call]
                parts.append(part)
                tick()
            self.ranks.sum_gradients(self.parameters)
            norm = whole(torch.nn.utils.clip_grad_norm_(self.parameters, self.training.max_grad_norm)).item()
            norms.append(norm)
            self.step_optimizer(step, rate, norm)
            self.optimizer.zero_grad(set_to_none=True)  # the next rollout has use for their memory
        divergence = {} if reference is None else {"kl": self._all([part.divergence for part in parts]).mean().item()}
        return (
            self._seen(parts)
            | divergence
            | {
                "grad_norm": sum(norms) / len(norms),
                "learning_rate": rate,
                "skipped_updates": float(self.skipped),
            }
        )

    def _minibatches(self, step: int, experience: Experience) -> list[Experience]:
        count, pieces = self.algorithm.updates, self.algorithm.pieces
        prompts = self.ranks.share(self.training.prompts_per_step)
        orders = [permutation(pieces, self.training.seed, "minibatches", step, p) for p in prompts if count > 1]
        return experience.minibatches(count, orders, prompts.start)

    def _all(self, parts: Sequence[Tensor]) -> Tensor:
        """The numbers of all ranks, each of which has as many."""
        own = torch.cat([part.flatten() for part in parts])
        return self.ranks.whole(own, len(own) * self.ranks.world)

    def _seen(self, parts: list[LossPart]) -> dict[str, float]:
        """What the updates of a step saw, as metrics."""
        ratios = self._all([part.ratios for part in parts])
        first = (parts[0].ratios - 1.0).abs().max().reshape(1)
        loss = sum(self.ranks.tell(sum(part.loss.item() for part in parts)))
        return {
            "loss": loss / self.algorithm.updates,
            "ratio/mean": ratios.mean().item(),
            "ratio/min": ratios.min().item(),
            "ratio/max": ratios.max().item(),
            "ratio/first_deviation": self._all([first]).max().item(),
            "clip_fraction": self._all([part.clipped.float() for part in parts]).mean().item(),
        }

    def step_optimizer(self, step: int, rate: float, norm: float) -> None:
        """One optimizer step, left out and counted where the gradient's norm is not finite. Raises NotFinite."""
        if not math.isfinite(norm):
            self.bad_steps += 1
            self.skipped += 1
            if self.bad_steps >= self.training.max_bad_steps:
                raise NotFinite(
                    f"the gradient was not finite in {self.bad_steps} updates in a row, the last at step {step}"
                )
            return
        self.bad_steps = 0
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()

    @contextmanager
    def offered_weights(self) -> Iterator[None]:
        """Within: the policy that is shown and offered, the moving average where one is kept."""
        if self.ema is None:
            yield
            return
        with self.ema.applied():
            yield


def save_inputs(path: Path, prompts: list[str], experience: Experience, advantages: Tensor) -> None:
    """Write what an update that failed was given, for a person to look at."""
    tensors = {
        "states": experience.states,
        "samples": experience.samples,
        "old_log_probs": experience.old_log_probs,
        "sde_steps": torch.tensor(experience.sde_steps),
        "prompts": torch.tensor(experience.prompts),
        "members": experience.members,
        "advantages": advantages,
    }
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={str(index): prompt for index, prompt in enumerate(prompts)})
