"""Run plans: NFE by part, memory, time and warnings."""

from collections.abc import Collection
from itertools import pairwise

from pydantic import Field

from service.contracts.algorithms import G2RPO
from service.contracts.base import Contract
from service.contracts.catalog import Catalog, ModelEntry
from service.contracts.memory import Memory, estimate, tokens
from service.contracts.runs import RunSpec
from service.contracts.schedule import RolloutCost, seed_formula

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_LONG_SECONDS = 86400
"""Plans of more than this have a warning."""
_RECOMPUTING = 1.6
"""Slowdown of a forward and backward pass due to gradient checkpointing: 0.65 s / 0.40 s for FLUX.1-dev on an H100."""


class RolloutNfe(Contract):
    """NFE for the rollout of one prompt. With classifier-free guidance, each velocity counts as 2 NFE."""

    anchor: int
    sde_steps: int = Field(description="NFE of the SDE steps; 0 for G²RPO, which reuses the anchor's velocities.")
    continuations: int
    total: int
    images: int = Field(description="Number of decoded and scored images, including the anchor of G²RPO.")


class PaperFormula(Contract):
    """The cost according to the supplement's formula."""

    steps_by_granularity: dict[int, int] = Field(description="S_λ = Σ_{m∈M} ⌊m/λ⌋ for each stride λ.")
    total: int = Field(description="T_Λ = Σ S_λ, per sample of a group.")
    overhead: float = Field(description="Overhead Δ_Λ = (T_Λ − S_1)/T_Λ, from 0 to 1.")
    note: str


class Plan(Contract):
    """The estimated cost of a run."""

    spec: RunSpec = Field(description="The resolved spec.")
    per_prompt: RolloutNfe = Field(description="NFE in the first step; for MixGRPO, later steps can differ.")
    naive_per_prompt: RolloutNfe = Field(description="NFE without shared computation, as in public references.")
    saved_share: float = Field(description="Share of NFE saved compared with the naive schedule.")
    per_step_nfe: int = Field(description="NFE of the first step's rollout.")
    per_step_updates: int = Field(description="Number of forward and backward passes per step.")
    heldout_nfe: int = Field(description="NFE of held-out evaluation over the whole run.")
    total_nfe: int = Field(description="NFE of rollouts and held-out evaluation over the whole run.")
    paper_formula: PaperFormula | None = Field(
        description="Cost according to the supplement's formula, for G²RPO; otherwise null."
    )
    group_image_bytes: int = Field(
        description="Estimated disk space of the images of groups: at most three bytes per pixel and the limit "
        "of the spec."
    )
    memory: Memory | None = Field(description="Estimated memory per process; null if the model is not in the catalog.")
    seconds: float | None = Field(description="Estimated seconds at the rates in the catalog; null if it has none.")
    seconds_basis: str = Field(description="Basis of the time estimate.")
    warnings: tuple[str, ...]


def duration(seconds: float) -> str:
    """Format a duration in its two largest units, such as `6 d 23 h`, rounded to the smaller unit."""
    for (unit, size), (lower, part) in pairwise(_UNITS):
        if round(seconds / part) * part >= size:
            whole, rest = divmod(round(seconds / part), size // part)
            return f"{whole} {unit}" + (f" {rest} {lower}" if rest else "")
    return f"{seconds:.0f} s"


def heldout_pairs(spec: RunSpec) -> list[int]:
    """Return the number of prompt and noise pairs in each held-out evaluation of the run, in order."""
    pairs, last = spec.heldout.pairs, spec.training.max_steps
    ends = max(pairs, spec.heldout.final_pairs)
    return [ends if step in (0, last) else pairs for step in heldout_steps(spec)]


def heldout_steps(spec: RunSpec) -> list[int]:
    """Return the steps at which held-out evaluation takes place: 0, every `every` steps, and the last step."""
    every, last = spec.heldout.every, spec.training.max_steps
    return sorted({*range(0, last, every), last}) if every else []


def make_plan(spec: RunSpec, catalog: Catalog, uploaded: Collection[str] = ()) -> Plan:
    """Compute the plan of a run.

    Names that are neither in `catalog` nor among the `uploaded` prompt sets cause warnings, not errors.
    """
    algorithm, steps = spec.algorithm, spec.sampling.steps
    seed, prompts = spec.training.seed, spec.training.prompts_per_step
    shared, naive = algorithm.cost(steps, 0, seed), algorithm.naive_cost(steps, 0, seed)
    entry = next((model for model in catalog.models if model.name == spec.model), None)
    passes = entry.passes(spec.sampling.guidance) if entry else 1
    heldout = passes * sum(heldout_pairs(spec)) * steps
    total = passes * prompts * algorithm.total_nfe(steps, spec.training.max_steps, seed) + heldout
    seconds, basis = _seconds(spec, entry, catalog, total) if entry else (None, "no measured rate in the catalog")
    warnings = _warnings(spec, catalog, uploaded)
    if seconds is not None and seconds > _LONG_SECONDS:
        warnings.append(
            f"the run takes about {duration(seconds)}; a smaller training.max_steps or training.prompts_per_step, or "
            "more resources.processes_per_node, shortens it"
        )
    return Plan(
        spec=spec,
        per_prompt=_rollout_nfe(shared, passes),
        naive_per_prompt=_rollout_nfe(naive, passes),
        saved_share=1 - shared.total / naive.total,
        per_step_nfe=passes * shared.total * prompts,
        per_step_updates=passes * algorithm.trained(steps) * prompts,
        heldout_nfe=heldout,
        total_nfe=total,
        paper_formula=_paper_formula(algorithm, steps) if isinstance(algorithm, G2RPO) else None,
        group_image_bytes=_group_image_bytes(spec, shared.images),
        memory=_memory(spec, entry, catalog) if entry else None,
        seconds=seconds,
        seconds_basis=basis,
        warnings=tuple(warnings),
    )


def _rollout_nfe(cost: RolloutCost, passes: int) -> RolloutNfe:
    nfe = {name: passes * getattr(cost, name) for name in ("anchor", "sde_steps", "continuations", "total")}
    return RolloutNfe(**nfe, images=cost.images)


def _group_image_bytes(spec: RunSpec, images: int) -> int:
    """Return the estimated bytes of the images of groups, of which each evaluation after the first stores `images`."""
    stored = images * max(0, len(heldout_steps(spec)) - 1)
    pixels = spec.sampling.width * spec.sampling.height
    return min(int(spec.heldout.group_images_mib * 2**20), 3 * pixels * stored)


def _paper_formula(algorithm: G2RPO, steps: int) -> PaperFormula:
    formula = seed_formula(steps, algorithm.sde_steps, algorithm.granularities)
    return PaperFormula(
        steps_by_granularity=formula.steps_by_stride,
        total=formula.total,
        overhead=formula.overhead,
        note="The supplement's formula counts m steps for a continuation of m − 1 NFE, without shared computation "
        "and without the anchor. For its example (T = 16, M = {16..9}, strides 1, 2, 3) it gives "
        "100 + 48 + 31 = 179 and 44.1%; the printed 184 and 45.7% result from rounding m/3 up.",
    )


def _memory(spec: RunSpec, entry: ModelEntry, catalog: Catalog) -> Memory:
    named = {*(reward.name for reward in spec.rewards), *spec.heldout_rewards}
    return estimate(spec, entry, [reward for reward in catalog.rewards if reward.name in named])


def _seconds(spec: RunSpec, entry: ModelEntry, catalog: Catalog, nfe: int) -> tuple[float | None, str]:
    """Estimate the seconds of the whole run from the rates in the catalog; return them with the basis of the estimate.

    The seconds are None if the catalog has no sampling rate for the model.
    """
    if not entry.seconds_per_nfe:
        return None, "no measured rate in the catalog"
    training, steps = spec.training, spec.sampling.steps
    each = training.max_steps * training.prompts_per_step
    sampled = each * spec.algorithm.cost(steps, 0, training.seed).images
    held = sum(heldout_pairs(spec))
    default = tokens(entry, entry.width, entry.height)
    size = tokens(entry, spec.sampling.width, spec.sampling.height) / default
    rewards = {reward.name: reward.seconds_per_image for reward in catalog.rewards}
    scored_images = [(reward.name, sampled) for reward in spec.rewards] + [
        (name, held) for name in spec.heldout_rewards
    ]
    scored = [images * rate for name, images in scored_images if (rate := rewards.get(name)) is not None]
    passes = entry.passes(spec.sampling.guidance)
    recomputing = _RECOMPUTING if training.gradient_checkpointing else 1.0
    updates = each * spec.algorithm.trained(steps) * passes
    parts = {
        "sampling": _sampling(spec, entry, nfe) * size,
        "decoding": (sampled + held) * (entry.seconds_per_decode or 0) * size,
        "rewards": sum(scored),
        "updates": updates * (entry.seconds_per_update or 0) * recomputing * size,
    }
    processes = spec.resources.processes_per_node
    summary = ", ".join(f"{part} {duration(seconds / processes)}" for part, seconds in parts.items() if seconds)
    missing = [part for part, seconds in parts.items() if not seconds]
    basis = f"{summary}, by the catalog's rates on {entry.measured_on}"
    if size != 1:
        basis += f", times {size:.2f} for the image's size"
    if missing:
        basis += f"; without {' and '.join(missing)}"
    return sum(parts.values()) / processes, basis


def _sampling(spec: RunSpec, entry: ModelEntry, nfe: int) -> float:
    """Return the seconds for `nfe` NFE at the model's default image size.

    Continuations use the rate for compiled models if compilation is enabled and the catalog has that rate.
    """
    rate = entry.seconds_per_nfe or 0.0
    faster = (spec.sampling.compile and entry.seconds_per_compiled_nfe) or rate
    cost = spec.algorithm.cost(spec.sampling.steps, 0, spec.training.seed)
    held = entry.passes(spec.sampling.guidance) * sum(heldout_pairs(spec)) * spec.sampling.steps
    continuations = (nfe - held) * cost.continuations / cost.total
    return continuations * faster + (nfe - continuations) * rate


def _warnings(spec: RunSpec, catalog: Catalog, uploaded: Collection[str]) -> list[str]:
    warnings = []
    models, rewards, sets = (
        {entry.name for entry in entries} for entries in (catalog.models, catalog.rewards, catalog.prompt_sets)
    )
    sets |= set(uploaded)
    named = [("model", spec.model, models), ("heldout.prompts", spec.heldout.prompts, sets)]
    named += [("rewards", reward.name, rewards) for reward in spec.rewards]
    named += [("heldout.rewards", name, rewards) for name in spec.heldout.rewards or ()]
    named += [("prompts.set", spec.prompts.set, sets)] if spec.prompts.set else []
    for field, name, known in named:
        if name not in known:
            warnings.append(f"{field}: {name!r} is not in this server's catalog; a run would be refused")
    if spec.prompts.set == spec.heldout.prompts:
        warnings.append(
            f"heldout.prompts: {spec.heldout.prompts!r} is also the training set; held-out rewards will be too high"
        )
    if spec.training.adapter == "lora" and spec.training.learning_rate < 1e-5:
        warnings.append(
            f"training.learning_rate {spec.training.learning_rate} is too small for a LoRA, "
            "which needs about ten times the rate of full training"
        )
    if spec.training.prompts_per_step < 8:
        warnings.append(
            f"training.prompts_per_step {spec.training.prompts_per_step}: updates with fewer than 8 prompts are noisy"
        )
    return warnings
