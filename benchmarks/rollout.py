"""Compare the shared, batched rollout with the naive schedule (batch size 1, nothing shared): advantages and time.

    python benchmarks/rollout.py [--prompts 2] [--threads 2]

Both run in this process on the bundled model, one after the other. The naive schedule follows the public
implementation: it evaluates a velocity for every SDE sample and every continuation separately, and decodes and scores
images one by one. The comparison runs in float64 for advantages, then in float32 for rewards and seconds.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from service.contracts.catalog import load_catalog
from service.contracts.runs import RunSpec
from service.contracts.schedule import continuation_path, naive_cost, shared_cost, sigma_nodes
from worker.engine.grpo.algorithms.base import Sampler
from worker.engine.grpo.algorithms.g2rpo import GranularGRPO
from worker.engine.grpo.noise import StepNoise, normal
from worker.engine.grpo.solvers import Velocity
from worker.engine.grpo.transitions import FlowTransition
from worker.engine.models import load_model
from worker.engine.models.base import FlowModel, ImageSize
from worker.engine.rewards.clip import ClipReward
from worker.engine.training.cost_meter import CostMeter
from worker.engine.training.distributed import Distributed
from worker.shapes.caption_sampling import heldout_prompts

SPEC = RunSpec()
SIZE = ImageSize(SPEC.sampling.width, SPEC.sampling.height)
SIGMAS = sigma_nodes(SPEC.sampling.steps, SPEC.sampling.shift)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2, help="number of prompts")
    parser.add_argument("--threads", type=int, default=2, help="number of torch threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prompts = heldout_prompts()[: options.prompts]
    config = SPEC.algorithm
    shape = (SPEC.sampling.steps, config.sde_steps, config.granularities, config.group_size)
    print(f"NFE per prompt: shared {shared_cost(*shape).total}, naive {naive_cost(*shape).total}")
    for dtype in (torch.float64, torch.float32):
        model, reward = load(dtype)
        noise = noises(model)
        fast, fast_seconds = timed(lambda m=model, r=reward, n=noise: shared(m, r, prompts, n))
        slow, slow_seconds = timed(lambda m=model, r=reward, n=noise: naive(m, r, prompts, n))
        algorithm = made()
        advantages = [algorithm.advantages(rewards[None], [1.0]).values for rewards in (fast, slow)]
        print(
            f"{dtype}: rewards differ by ≤ {(fast - slow).abs().max():.2e}, "
            f"advantages by ≤ {(advantages[0] - advantages[1]).abs().max():.2e}; "
            f"shared {fast_seconds:.2f} s, naive {slow_seconds:.2f} s: {slow_seconds / fast_seconds:.1f}×"
        )


def load(dtype: torch.dtype) -> tuple[FlowModel, ClipReward]:
    """Load the bundled model with a nonzero LoRA, and the bundled CLIP, both in `dtype`."""
    catalog, cpu = load_catalog(), torch.device("cpu")
    model = load_model(catalog.model(SPEC.model), cpu, dtype)
    for index, parameter in enumerate(model.train_lora(16, 16.0, seed=0)):
        parameter.data += 0.01 * normal(tuple(parameter.shape), 0, "lora", index).to(dtype)
    return model, ClipReward.load(catalog.reward("clip_score"), cpu, dtype)


def made() -> GranularGRPO:
    """Create the algorithm of the bundled preset."""
    return GranularGRPO(SPEC.algorithm, SIGMAS, SPEC.sampling.shift, SPEC.training.seed)


def noises(model: FlowModel) -> StepNoise:
    """Create the noises of one step."""
    return StepNoise(1, 0, lambda draw: model.noise(draw, SIZE), model.packed_shape(SIZE))


@torch.no_grad()
def shared(model: FlowModel, reward: ClipReward, prompts: tuple[str, ...], noise: StepNoise) -> Tensor:
    """Rewards [P, K, G, Λ] as the engine computes them."""
    algorithm, sampling = made(), SPEC.sampling
    velocity = model.velocity(model.encode(prompts), SIZE, sampling.guidance)

    @contextmanager
    def fast() -> Iterator[Velocity]:
        with model.sampling_weights():
            yield velocity

    rows = algorithm.exact_rows(len(prompts), SPEC.training.update_batch_size)
    sampler = Sampler(velocity, rows, fast, sampling.rollout_batch_size, CostMeter(Distributed(model.device)))
    ends = algorithm.roll_out(0, len(prompts), noise, sampler).ends
    flat, each = ends.flatten(0, 3), [prompt for prompt in prompts for _ in range(ends[0].shape[:3].numel())]
    batch = sampling.decode_batch_size
    values = [
        reward.score(model.decode(flat[start : start + batch], SIZE), each[start : start + batch])
        for start in range(0, len(flat), batch)
    ]
    return torch.cat(values).reshape(ends.shape[:4])


@torch.no_grad()
def naive(model: FlowModel, reward: ClipReward, prompts: tuple[str, ...], noise: StepNoise) -> Tensor:
    """The same rewards, one sample at a time."""
    config, steps = SPEC.algorithm, SPEC.sampling.steps
    shape = len(prompts), len(config.sde_steps), config.group_size, len(config.granularities)
    rewards = torch.empty(shape, dtype=model.latent_dtype)
    for p, prompt in enumerate(prompts):
        conditioning = model.encode([prompt])

        def v(x: Tensor, node: int, conditioning=conditioning) -> Tensor:  # type: ignore[no-untyped-def]
            sigma = torch.tensor([SIGMAS[node]], dtype=x.dtype)
            return model.predict(x, sigma, conditioning, SIZE, SPEC.sampling.guidance)

        x = noise.initial(p)
        for i in range(steps):
            if i in config.sde_steps:
                k, transition = config.sde_steps.index(i), FlowTransition.at(SIGMAS, i, config.eta)
                for g in range(config.group_size):
                    sample = transition.mean(x, v(x, i)) + transition.std * noise.sde(p, i, g).to(x)
                    for s, stride in enumerate(config.granularities):
                        z, path = sample, continuation_path(steps, i, stride)
                        for node, following in zip(path, (*path[1:], steps), strict=True):
                            z = z + (SIGMAS[following] - SIGMAS[node]) * v(z, node)
                        rewards[p, k, g, s] = reward.score(model.decode(z, SIZE), [prompt])[0]
            x = x + (SIGMAS[i + 1] - SIGMAS[i]) * v(x, i)
    return rewards


def timed(call) -> tuple[Tensor, float]:  # type: ignore[no-untyped-def]
    """Return the result of `call` and its seconds, including warm-up."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


if __name__ == "__main__":
    main()
