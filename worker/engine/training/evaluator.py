"""Held-out evaluation: the same prompts and noises each time, never trained on, and how sure a difference is."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from service.contracts.events import HeldoutSummary
from service.contracts.runs import RunSpec
from worker.engine.cpu_parallel import Check, Lanes
from worker.engine.grpo.noise import normal
from worker.engine.grpo.rollout import ode_trajectory
from worker.engine.models.base import FlowModel, ImageSize
from worker.engine.models.prompt_cache import Encodings
from worker.engine.training.cost_meter import Meter
from worker.engine.training.distributed import Ranks
from worker.engine.training.prompt_sampler import fingerprint
from worker.engine.training.reward_scorer import Scorer

RESAMPLES = 10_000


class HeldOut:
    """Draws and scores held-out images. Pair j is prompt j mod n with a noise of its own."""

    def __init__(
        self,
        spec: RunSpec,
        model: FlowModel,
        prompts: Sequence[str],
        scorer: Scorer,
        meter: Meter,
        sigmas: Sequence[float],
        ranks: Ranks,
        encodings: Encodings,
    ) -> None:
        self._spec, self._model, self._scorer, self._meter, self._sigmas = spec, model, scorer, meter, sigmas
        self._ranks, self._encodings = ranks, encodings
        self.names = spec.heldout_rewards
        most = max(spec.heldout.pairs, spec.heldout.final_pairs) if spec.heldout.every else 1
        self._prompts = prompts[:most]
        self.fingerprint = fingerprint(self._prompts)
        encodings.prepare(self._prompts)
        self.before: dict[str, list[float]] = {}
        """Values of the first evaluation, by reward; NaN where the reward failed."""

    @torch.no_grad()
    def evaluate(self, pairs: int, kept: int) -> tuple[Tensor, Tensor]:
        """The first `kept` clean latents of today's policy, and values [rewards, pairs]; each rank draws its share."""
        own = self._ranks.share(pairs)
        with self._model.gathered(), self._ranks.together():
            latents = self._draw(own)
        with self._ranks.together():
            values = self._scorer.score(latents, [self.prompt(j) for j in own], self.names, "heldout_")
        first = latents.new_zeros(min(kept, pairs), *latents.shape[1:])
        shown = range(min(own.start, len(first)), min(own.stop, len(first)))
        first[shown.start : shown.stop] = latents[: len(shown)]
        return self._ranks.sum(first), self._ranks.whole(values, pairs, dim=1)

    def _draw(self, pairs: range) -> Tensor:
        """Clean latents of `pairs`."""
        sampling, model = self._spec.sampling, self._model
        lanes = Lanes.on(model.device, sampling.rollout_batch_size)
        starts = range(pairs.start, pairs.stop, lanes.batch_size)
        tasks = [self._sampling(range(start, min(start + lanes.batch_size, pairs.stop))) for start in starts]
        shape = model.packed_shape(ImageSize(sampling.width, sampling.height))
        none = torch.empty(0, *shape, dtype=model.latent_dtype, device=model.device)
        with model.sampling_weights(faithful=True), self._meter.part("heldout"):
            latents = torch.cat([none, *lanes.run(tasks, self._scorer.check)])
        self._meter.count("heldout", len(pairs) * sampling.steps)
        return latents

    def _sampling(self, pairs: range) -> Callable[[Check], Tensor]:
        """Draws the clean latents of `pairs`, one batch."""
        sampling = self._spec.sampling
        size = ImageSize(sampling.width, sampling.height)

        def draw(check: Check) -> Tensor:
            check()
            noise = torch.cat([self._noise(j, size) for j in pairs])
            conditioning = self._encodings.encode([self.prompt(j) for j in pairs])
            velocity = self._model.velocity(conditioning, size, sampling.guidance)
            return ode_trajectory(velocity, noise, self._sigmas, len(pairs)).end

        return draw

    def prompt(self, index: int) -> str:
        """The prompt of pair `index`."""
        return self._prompts[index % len(self._prompts)]

    def _noise(self, pair: int, size: ImageSize) -> Tensor:
        return self._model.noise(lambda shape: normal(shape, self._spec.heldout.seed, "heldout", pair), size)

    def summary(self, after: Tensor) -> dict[str, HeldoutSummary]:
        """First against last policy, by reward, over the pairs that both have; a reward without any is left out."""
        summaries = {}
        for name, last in zip(self.names, after, strict=True):
            first = torch.tensor(self.before.get(name, []), dtype=torch.float64)
            pairs = min(len(first), len(last))
            both = first[:pairs].isfinite() & last[:pairs].isfinite()
            if both.any():
                summaries[name] = compare_pairs(first[:pairs][both].numpy(), last[:pairs][both].double().numpy())
        return summaries


def compare_pairs(before: np.ndarray, after: np.ndarray) -> HeldoutSummary:
    """Means, their difference, and its 95% percentile interval over bootstrap resamples of the pairs (seeded)."""
    differences = after - before
    generator = np.random.default_rng(0)
    means = np.array(
        [differences[generator.integers(0, len(differences), len(differences))].mean() for _ in range(RESAMPLES)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return HeldoutSummary(
        before=float(before.mean()),
        after=float(after.mean()),
        difference=float(differences.mean()),
        interval95=(float(low), float(high)),
        pairs=len(differences),
    )
