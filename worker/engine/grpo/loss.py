"""The training states of a rollout and the policy loss."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.grpo.solvers import Velocity, filled
from worker.engine.grpo.transitions import Transition, probability_ratio


def clipped_objective(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """Compute each sample's loss max(−A·r, −A·clip(r, 1−c, 1+c)), elementwise. Source: PPO, as used in GRPO."""
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return (-advantages * ratio).maximum(-advantages * clipped)


@dataclass(frozen=True)
class RolloutBatch:
    """U training states, each with the S samples of its SDE step.

    The samples are a whole group at an anchor, or a single sample of a chain. One network evaluation at a state serves
    all its samples. The last dimensions of latents are [tokens, channels].

    states: x_i [U, …]. samples: x' [U, S, …], float32 or better. old_log_probs: [U, S], under the sampling policy.
    sde_steps, prompts: i and the prompt index of each state. members: [U, S], each sample's index among the step's
    flattened advantages. pieces: the index of each state's piece within its prompt. Minibatches consist of whole
    pieces.
    """

    states: Tensor
    samples: Tensor
    old_log_probs: Tensor
    sde_steps: tuple[int, ...]
    prompts: tuple[int, ...]
    members: Tensor
    pieces: tuple[int, ...]

    def take(self, units: Sequence[int]) -> "RolloutBatch":
        """Return a batch that contains only the states at the indices `units`."""
        index = torch.tensor(units, dtype=torch.long)
        rows = index.to(self.states.device)
        return RolloutBatch(
            self.states[rows],
            self.samples[rows],
            self.old_log_probs[rows],
            tuple(self.sde_steps[u] for u in units),
            tuple(self.prompts[u] for u in units),
            self.members[index],
            tuple(self.pieces[u] for u in units),
        )

    def minibatches(self, count: int, orders: Sequence[Sequence[int]], first_prompt: int = 0) -> list["RolloutBatch"]:
        """Divide the batch into `count` minibatches with equal numbers of pieces.

        orders: for each prompt, a permutation of its pieces. first_prompt: the index of this process's first prompt
        within the step. The pieces of the whole step are distributed round-robin over the minibatches, prompt by
        prompt, so the minibatches do not depend on the number of processes.
        """
        if count == 1:
            return [self]
        positions = [{piece: position for position, piece in enumerate(order)} for order in orders]
        minibatches: list[list[int]] = [[] for _ in range(count)]
        for unit, (prompt, piece) in enumerate(zip(self.prompts, self.pieces, strict=True)):
            position = (first_prompt + prompt) * len(orders[prompt]) + positions[prompt][piece]
            minibatches[position % count].append(unit)
        return [self.take(units) for units in minibatches]


@dataclass(frozen=True)
class Objective:
    """Loss hyperparameters: the clip range of the ratio, and the weight of the divergence from the base model."""

    clip_range: float
    kl_weight: float = 0.0


@dataclass(frozen=True)
class LossPart:
    """The contribution of one forward pass to the mean loss of an update.

    ratios, clipped: [states, S]. divergence: [states].
    """

    loss: Tensor
    ratios: Tensor
    clipped: Tensor
    divergence: Tensor


def losses(
    policy: Velocity,
    batch: RolloutBatch,
    advantages: Tensor,
    transitions: Mapping[int, Transition],
    objective: Objective,
    rows: int,
    share: float = 1.0,
    reference: Velocity | None = None,
) -> Iterator[LossPart]:
    """Compute the parts of an update's mean loss over samples, one for each forward pass of `rows` states.

    advantages: flat, indexed by `batch.members`. share: the fraction of the update's samples in this process.
    reference: the velocity of the frozen base model, or None to omit the divergence. The divergence of a state is
    mean((μ−μ_ref)²)/(2·std²), counted once per sample.
    """
    total = batch.old_log_probs.numel() / share
    samples_each = batch.old_log_probs.shape[1]
    for start in range(0, len(batch.states), rows):
        part = batch.take(range(start, min(start + rows, len(batch.states))))
        x, prompts = part.states, list(part.prompts)
        steps = torch.tensor(part.sde_steps)
        sigma = torch.tensor([transitions[i].sigma for i in part.sde_steps], dtype=x.dtype, device=x.device)
        velocity = filled(policy, x, sigma, prompts, rows)
        base = None if reference is None else filled(reference, x, sigma, prompts, rows)
        log_probs = torch.empty_like(part.old_log_probs)
        divergence = x.new_zeros(len(x))
        for i in sorted(set(part.sde_steps)):
            here, transition = (steps == i).nonzero()[:, 0].to(x.device), transitions[i]
            mean = transition.mean(x[here], velocity[here]).unsqueeze(1)
            log_probs = log_probs.index_copy(0, here, transition.log_prob(part.samples[here], mean))
            if base is not None:
                gap = mean.squeeze(1) - transition.mean(x[here], base[here])
                each = gap.square().mean(dim=(-2, -1)) / (2.0 * transition.std**2)
                divergence = divergence.index_copy(0, here, each)
        ratio = probability_ratio(log_probs, part.old_log_probs)
        loss = clipped_objective(ratio, advantages[part.members.to(advantages.device)], objective.clip_range).sum()
        if base is not None:
            loss = loss + objective.kl_weight * samples_each * divergence.sum()
        clipped = (ratio - 1.0).abs() > objective.clip_range
        yield LossPart(loss / total, ratio.detach(), clipped, divergence.detach())
