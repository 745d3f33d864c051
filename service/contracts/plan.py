"""What a run would cost before it is started: evaluations by part, memory, time, and what to beware of."""

from collections.abc import Collection

from pydantic import Field

from service.contracts.algorithms import G2RPO
from service.contracts.base import Contract
from service.contracts.catalog import Catalog, ModelEntry
from service.contracts.memory import Memory, estimate, tokens
from service.contracts.runs import RunSpec
from service.contracts.schedule import RolloutCost, seed_formula

_RECOMPUTING = 1.6
"""How much longer forward and backward take with gradient checkpointing: on an H100, FLUX.1-dev 0.65 for 0.40 s."""


class RolloutNfe(Contract):
    """NFE for one prompt's rollout. Classifier-free guidance takes two for one velocity."""

    anchor: int
    sde_steps: int = Field(description="Velocities for the SDE steps; 0 for G²RPO, whose anchor already has them.")
    continuations: int
    total: int
    images: int = Field(description="Images decoded and scored, G²RPO's anchor included.")


class PaperFormula(Contract):
    """The supplement's own cost formula beside the evaluations really done."""

    steps_by_granularity: dict[int, int] = Field(description="S_λ = Σ_{m∈M} ⌊m/λ⌋ per stride λ.")
    total: int = Field(description="T_Λ = Σ S_λ, per sample of a group.")
    overhead: float = Field(description="Δ_Λ = (T_Λ − S_1)/T_Λ, a share.")
    note: str


class Plan(Contract):
    """The run's cost, from its spec alone."""

    spec: RunSpec = Field(description="The resolved spec the run would have.")
    per_prompt: RolloutNfe = Field(description="In the run's first step; MixGRPO's change with its window.")
    naive_per_prompt: RolloutNfe = Field(description="The same as public references do it: nothing shared.")
    saved_share: float = Field(description="Share of evaluations saved against the naive schedule.")
    per_step_nfe: int = Field(description="Rollout evaluations of the run's first step.")
    per_step_updates: int = Field(description="Forward and backward passes of one step, in samples.")
    heldout_nfe: int = Field(description="Evaluations spent on held-out images over the whole run.")
    total_nfe: int = Field(description="Rollouts and held-out images over the whole run.")
    paper_formula: PaperFormula | None = Field(description="Of G²RPO alone.")
    memory: Memory | None = Field(description="Estimate, of each process; null for a model the catalog does not have.")
    seconds: float | None = Field(
        description="Estimated time of the whole run by the catalog's measured rates; null if none."
    )
    seconds_basis: str = Field(description="What the estimate rests on.")
    warnings: tuple[str, ...]


def heldout_pairs(spec: RunSpec) -> list[int]:
    """Number of prompt and noise pairs at each held-out evaluation of the run, in order."""
    pairs, last = spec.heldout.pairs, spec.training.max_steps
    ends = max(pairs, spec.heldout.final_pairs)
    return [ends if step in (0, last) else pairs for step in heldout_steps(spec)]


def heldout_steps(spec: RunSpec) -> list[int]:
    """Optimizer steps after which held-out images are drawn: the start, every `every`, and the end."""
    every, last = spec.heldout.every, spec.training.max_steps
    return sorted({*range(0, last, every), last}) if every else []


def make_plan(spec: RunSpec, catalog: Catalog, uploaded: Collection[str] = ()) -> Plan:
    """The plan of `spec`; names that `catalog` does not have become warnings, but prompt sets that are `uploaded`."""
    algorithm, steps = spec.algorithm, spec.sampling.steps
    seed, prompts = spec.training.seed, spec.training.prompts_per_step
    shared, naive = algorithm.cost(steps, 0, seed), algorithm.naive_cost(steps, 0, seed)
    entry = next((model for model in catalog.models if model.name == spec.model), None)
    passes = entry.passes(spec.sampling.guidance) if entry else 1
    heldout = passes * sum(heldout_pairs(spec)) * steps
    total = passes * prompts * algorithm.total_nfe(steps, spec.training.max_steps, seed) + heldout
    seconds, basis = _seconds(spec, entry, catalog, total) if entry else (None, "no measured rate in the catalog")
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
        memory=_memory(spec, entry, catalog) if entry else None,
        seconds=seconds,
        seconds_basis=basis,
        warnings=tuple(_warnings(spec, catalog, uploaded)),
    )


def _rollout_nfe(cost: RolloutCost, passes: int) -> RolloutNfe:
    return RolloutNfe(
        anchor=passes * cost.anchor,
        sde_steps=passes * cost.sde_steps,
        continuations=passes * cost.continuations,
        total=passes * cost.total,
        images=cost.images,
    )


def _paper_formula(algorithm: G2RPO, steps: int) -> PaperFormula:
    formula = seed_formula(steps, algorithm.sde_steps, algorithm.granularities)
    return PaperFormula(
        steps_by_granularity=formula.steps_by_stride,
        total=formula.total,
        overhead=formula.overhead,
        note="The supplement's formula counts m steps for a continuation that evaluates the network m − 1 times, "
        "shares nothing, and leaves the anchor out. For its example (T = 16, M = {16..9}, strides 1, 2, 3) it gives "
        "100 + 48 + 31 = 179 and 44.1%; the printed 184 and 45.7% need rounding up m/3.",
    )


def _memory(spec: RunSpec, entry: ModelEntry, catalog: Catalog) -> Memory:
    named = {*(reward.name for reward in spec.rewards), *spec.heldout_rewards}
    return estimate(spec, entry, [reward for reward in catalog.rewards if reward.name in named])


def _seconds(spec: RunSpec, entry: ModelEntry, catalog: Catalog, nfe: int) -> tuple[float | None, str]:
    """Seconds of the whole run as far as the catalog has rates, shared by the processes; and what they rest on."""
    if not entry.seconds_per_nfe:
        return None, "no measured rate in the catalog"
    training, steps = spec.training, spec.sampling.steps
    each = training.max_steps * training.prompts_per_step
    drawn = each * spec.algorithm.cost(steps, 0, training.seed).images
    held = sum(heldout_pairs(spec))
    own = tokens(entry, entry.width, entry.height)
    size = tokens(entry, spec.sampling.width, spec.sampling.height) / own
    rewards = {reward.name: reward.seconds_per_image for reward in catalog.rewards}
    asked = [(reward.name, drawn) for reward in spec.rewards] + [(name, held) for name in spec.heldout_rewards]
    scored = [images * rate for name, images in asked if (rate := rewards.get(name)) is not None]
    passes = entry.passes(spec.sampling.guidance)
    recomputing = _RECOMPUTING if training.gradient_checkpointing else 1.0
    updates = each * spec.algorithm.trained(steps) * passes
    parts = {
        "sampling": _sampling(spec, entry, nfe) * size,
        "decoding": (drawn + held) * (entry.seconds_per_decode or 0) * size,
        "rewards": sum(scored),
        "updates": updates * (entry.seconds_per_update or 0) * recomputing * size,
    }
    processes = spec.resources.processes_per_node
    told = ", ".join(f"{part} {seconds / processes:.0f} s" for part, seconds in parts.items() if seconds)
    missing = [part for part, seconds in parts.items() if not seconds]
    basis = f"{told}, by the catalog's rates on {entry.measured_on}"
    if size != 1:
        basis += f", times {size:.2f} for the image's size"
    if missing:
        basis += f"; {' and '.join(missing)} come on top"
    return sum(parts.values()) / processes, basis


def _sampling(spec: RunSpec, entry: ModelEntry, nfe: int) -> float:
    """Seconds of all evaluations at the model's own size, by the compiled rate for continuations that are compiled."""
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
        warnings.append(f"heldout.prompts: {spec.heldout.prompts!r} is trained on; held-out figures will flatter")
    if spec.training.adapter == "lora" and spec.training.learning_rate < 1e-5:
        warnings.append(
            f"training.learning_rate {spec.training.learning_rate} hardly moves a LoRA; "
            "it wants about ten times the rate of all weights"
        )
    if spec.training.prompts_per_step < 8:
        warnings.append(
            f"training.prompts_per_step {spec.training.prompts_per_step}: fewer than 8 prompts make updates noisy"
        )
    return warnings
