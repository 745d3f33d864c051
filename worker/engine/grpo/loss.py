"""What the update learns from, and the losses it is made into."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.grpo.rollout import Velocity, filled
from worker.engine.grpo.transitions import Transition, probability_ratio


def clipped_objective(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """max(−A·r, −A·clip(r, 1−c, 1+c)), elementwise: each sample's loss. Source: PPO, as GRPO uses it."""
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return (-advantages * ratio).maximum(-advantages * clipped)


@dataclass(frozen=True)
class Experience:
    """U trained states, each with the S samples drawn from it: a whole group off an anchor, or one of a chain.

    One evaluation of the network at a state serves all its samples. Latents end in [tokens, channels].

    states: x_i [U, …]. samples: x' [U, S, …], float32 or better. old_log_probs: [U, S], by the policy that drew.
    sde_steps and prompts: i and the prompt's index of each state. members: [U, S], each sample's place among the step's
    advantages, flattened. pieces: the number, within its prompt, of the piece that a state belongs to; updates take
    whole pieces.
    """

    states: Tensor
    samples: Tensor
    old_log_probs: Tensor
    sde_steps: tuple[int, ...]
    prompts: tuple[int, ...]
    members: Tensor
    pieces: tuple[int, ...]

    def take(self, units: Sequence[int]) -> "Experience":
        """The states `units` alone."""
        index = torch.tensor(units, dtype=torch.long)
        rows = index.to(self.states.device)
        return Experience(
            self.states[rows],
            self.samples[rows],
            self.old_log_probs[rows],
            tuple(self.sde_steps[u] for u in units),
            tuple(self.prompts[u] for u in units),
            self.members[index],
            tuple(self.pieces[u] for u in units),
        )

    def minibatches(self, count: int, orders: Sequence[Sequence[int]], first_prompt: int = 0) -> list["Experience"]:
        """`count` parts with equal numbers of pieces. One part is everything, as it is.

        orders: for each prompt a permutation of its pieces. They are dealt in turn, prompt after prompt of the whole
        step, of which this process holds those from `first_prompt` on: so the number of processes changes nothing.
        """
        if count == 1:
            return [self]
        ranks = [{piece: rank for rank, piece in enumerate(order)} for order in orders]
        dealt: list[list[int]] = [[] for _ in range(count)]
        for unit, (prompt, piece) in enumerate(zip(self.prompts, self.pieces, strict=True)):
            place = (first_prompt + prompt) * len(orders[prompt]) + ranks[prompt][piece]
            dealt[place % count].append(unit)
        return [self.take(units) for units in dealt]


@dataclass(frozen=True)
class Objective:
    """The loss: clipped policy gradient, and the divergence from the frozen base with its weight."""

    clip_range: float
    kl_weight: float = 0.0


@dataclass(frozen=True)
class LossPart:
    """The loss of one forward: its share of the update's mean loss, and what is behind it, [states, S] or [states]."""

    loss: Tensor
    ratios: Tensor
    clipped: Tensor
    divergence: Tensor


def losses(
    policy: Velocity,
    experience: Experience,
    advantages: Tensor,
    transitions: Mapping[int, Transition],
    objective: Objective,
    rows: int,
    share: float = 1.0,
    reference: Velocity | None = None,
) -> Iterator[LossPart]:
    """The parts of an update's mean loss over samples, one forward of `rows` states each.

    advantages: flat, indexed by `experience.members`. `share`: of the update's samples that this process holds. The
    divergence is mean((μ−μ_ref)²)/(2·std²), each state's counted once per sample; `reference` is the base's velocity.
    """
    total = experience.old_log_probs.numel() / share
    samples_each = experience.old_log_probs.shape[1]
    for start in range(0, len(experience.states), rows):
        part = experience.take(range(start, min(start + rows, len(experience.states))))
        x, prompts = part.states, list(part.prompts)
        steps = torch.tensor(part.sde_steps)
        sigma = _sigmas(part, transitions, x)
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


def _sigmas(part: Experience, transitions: Mapping[int, Transition], like: Tensor) -> Tensor:
    values = [transitions[i].sigma for i in part.sde_steps]
    return torch.tensor(values, dtype=like.dtype, device=like.device)
