"""What a run would cost before it is started: evaluations by part, memory, time, and what to beware of."""

from pydantic import Field

from service.contracts.algorithms import G2RPO
from service.contracts.base import Contract
from service.contracts.catalog import Catalog, ModelEntry
from service.contracts.runs import RunSpec
from service.contracts.schedule import RolloutCost, seed_formula

_BYTES = {"float32": 4, "bfloat16": 2}


class Evaluations(Contract):
    """Evaluations of the network for one prompt's rollout. Classifier-free guidance takes two for one velocity."""

    anchor: int
    sde_steps: int = Field(description="Velocities for the SDE steps; 0 for G²RPO, whose anchor already has them.")
    continuations: int
    total: int
    images: int = Field(description="Pictures decoded and scored, G²RPO's anchor included.")


class PaperFormula(Contract):
    """The supplement's own cost formula beside the evaluations really done."""

    steps_by_granularity: dict[int, int] = Field(description="S_λ = Σ_{m∈M} ⌊m/λ⌋ per stride λ.")
    total: int = Field(description="T_Λ = Σ S_λ, per sample of a group.")
    overhead: float = Field(description="Δ_Λ = (T_Λ − S_1)/T_Λ, a share.")
    note: str


class Memory(Contract):
    """Estimated bytes of the transformer and its optimizer. Activations, encoders, decoder and rewards come on top."""

    weights: int
    optimizer: int = Field(description="Gradients, master weights and AdamW moments of what is trained.")
    total: int


class Plan(Contract):
    """The run's cost, from its spec alone."""

    spec: RunSpec = Field(description="The resolved spec the run would have.")
    per_prompt: Evaluations = Field(description="In the run's first step; MixGRPO's change with its window.")
    naive_per_prompt: Evaluations = Field(description="The same as public references do it: nothing shared.")
    saved_share: float = Field(description="Share of evaluations saved against the naive schedule.")
    per_step_evaluations: int = Field(description="Rollout evaluations of the run's first step.")
    per_step_updates: int = Field(description="Forward and backward passes of one step, in samples.")
    heldout_evaluations: int = Field(description="Evaluations spent on held-out pictures over the whole run.")
    total_evaluations: int = Field(description="Rollouts and held-out pictures over the whole run.")
    paper_formula: PaperFormula | None = Field(description="Of G²RPO alone.")
    memory: Memory | None = Field(description="Estimate; null for a model the catalog does not have.")
    seconds: float | None = Field(description="Estimated sampling time from the catalog's measured rate; null if none.")
    seconds_basis: str = Field(description="What the estimate rests on.")
    warnings: tuple[str, ...]


def heldout_pairs(spec: RunSpec) -> list[int]:
    """Number of prompt and noise pairs at each held-out evaluation of the run, in order."""
    pairs, last = spec.evaluation.pairs, spec.training.max_steps
    ends = max(pairs, spec.evaluation.final_pairs)
    return [ends if step in (0, last) else pairs for step in evaluation_steps(spec)]


def evaluation_steps(spec: RunSpec) -> list[int]:
    """Optimizer steps after which held-out pictures are drawn: the start, every `every`, and the end."""
    every, last = spec.evaluation.every, spec.training.max_steps
    return sorted({*range(0, last, every), last}) if every else []


def make_plan(spec: RunSpec, catalog: Catalog) -> Plan:
    """The plan of `spec`; names that `catalog` does not have become warnings."""
    algorithm, steps = spec.algorithm, spec.sampling.steps
    seed, prompts = spec.training.seed, spec.training.prompts_per_step
    shared, naive = algorithm.cost(steps, 0, seed), algorithm.naive_cost(steps, 0, seed)
    entry = next((model for model in catalog.models if model.name == spec.model), None)
    passes = entry.passes(spec.sampling.guidance) if entry else 1
    heldout = passes * sum(heldout_pairs(spec)) * steps
    total = passes * prompts * algorithm.total_evaluations(steps, spec.training.max_steps, seed) + heldout
    rate = entry.seconds_per_evaluation if entry else None
    return Plan(
        spec=spec,
        per_prompt=_evaluations(shared, passes),
        naive_per_prompt=_evaluations(naive, passes),
        saved_share=1 - shared.total / naive.total,
        per_step_evaluations=passes * shared.total * prompts,
        per_step_updates=passes * algorithm.trained(steps) * prompts,
        heldout_evaluations=heldout,
        total_evaluations=total,
        paper_formula=_paper_formula(algorithm, steps) if isinstance(algorithm, G2RPO) else None,
        memory=_memory(spec, entry) if entry else None,
        seconds=total * rate if rate else None,
        seconds_basis=_basis(entry),
        warnings=tuple(_warnings(spec, catalog)),
    )


def _basis(entry: ModelEntry | None) -> str:
    if entry is None or entry.seconds_per_evaluation is None:
        return "no measured rate in the catalog"
    rate = f"{entry.seconds_per_evaluation} s per sample and evaluation on {entry.measured_on}"
    return f"{rate}; decoding, rewards and updates come on top"


def _evaluations(cost: RolloutCost, passes: int) -> Evaluations:
    return Evaluations(
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


def _memory(spec: RunSpec, entry: ModelEntry) -> Memory:
    precision = spec.training.precision if spec.training.precision != "auto" else entry.dtype
    if precision == "auto":
        precision = "bfloat16" if entry.max_size > 64 else "float32"  # what is small may do without a GPU
    weights = entry.parameters * _BYTES[precision]
    if spec.training.adapter == "full":
        optimizer = entry.parameters * 16
    else:
        # A LoRA on a layer of width d adds 2·r·d to its d² weights: about 2·r/d of them.
        optimizer = int(entry.parameters * min(1.0, 2 * spec.training.lora_rank / entry.hidden_size) * 16)
        weights *= 2  # continuations sample with merged weights, restored from a pristine copy
    return Memory(weights=weights, optimizer=optimizer, total=weights + optimizer)


def _warnings(spec: RunSpec, catalog: Catalog) -> list[str]:
    warnings = []
    models, rewards, sets = (
        {entry.name for entry in entries} for entries in (catalog.models, catalog.rewards, catalog.prompt_sets)
    )
    named = [("model", spec.model, models), ("evaluation.prompts", spec.evaluation.prompts, sets)]
    named += [("rewards", reward.name, rewards) for reward in spec.rewards]
    named += [("evaluation.rewards", name, rewards) for name in spec.evaluation.rewards or ()]
    named += [("prompts.set", spec.prompts.set, sets)] if spec.prompts.set else []
    for field, name, known in named:
        if name not in known:
            warnings.append(f"{field}: {name!r} is not in this server's catalog; a run would be refused")
    if spec.prompts.set == spec.evaluation.prompts:
        warnings.append(f"evaluation.prompts: {spec.evaluation.prompts!r} is trained on; held-out figures will flatter")
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
