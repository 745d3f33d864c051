"""The spec of an alignment run: what a client may say, with bounds, units and defaults."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from service.contracts.algorithms import G2RPO, Algorithm, AlgorithmContract
from service.contracts.base import Contract, Name, Prompt
from service.contracts.presets import PRESETS, merge

SPEC_VERSION = 1

Label = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00]*$")]
Labels = Annotated[dict[Label, Label], Field(max_length=32, json_schema_extra={"additionalProperties": False})]
"""What is said of a run, by name. Without the schema's last words a name of another form would seem to be allowed."""


class Sampling(Contract):
    """The denoising schedule and image size used for rollouts, anchors and held-out images."""

    steps: int = Field(8, ge=2, le=200, description="Denoising steps T.")
    shift: float = Field(3.0, ge=0.1, le=20, description="Schedule shift s. Source: supplement, Table 1.")
    width: int = Field(32, ge=16, le=4096, multiple_of=16, description="Image width in pixels.")
    height: int = Field(32, ge=16, le=4096, multiple_of=16, description="Image height in pixels.")
    guidance: float = Field(
        3.5,
        ge=0,
        le=30,
        description="Guidance: embedded in FLUX.1; classifier-free in Stable Diffusion 3.5, where more than 1 doubles "
        "the evaluations.",
    )
    rollout_batch_size: int = Field(
        96,
        ge=1,
        le=1024,
        description="Samples per forward in rollouts. Changes speed and memory, not what is computed.",
    )
    decode_batch_size: int = Field(96, ge=1, le=1024, description="Images per decode and reward call.")
    compile: bool = Field(
        False,
        strict=True,
        description="Compile (`torch.compile`) the network for what no log-probability comes from: faster on a GPU, "
        "after some minutes of compiling at first. Images differ from those without it in the last digits.",
    )


class Reward(Contract):
    """One reward and its weight in the sum."""

    name: Name = Field(description="A reward of the catalog.")
    weight: float = Field(1.0, gt=-100, lt=100, description="Weight w_k of this reward's advantages; not 0.")

    @field_validator("weight")
    @classmethod
    def _not_zero(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("a reward of weight 0 trains nothing; list it under heldout.rewards instead")
        return weight


class PromptSource(Contract):
    """Training prompts: a named set, or a list given here."""

    set: Name | None = Field(None, description="A prompt set of the catalog, or an uploaded one.")
    items: tuple[Prompt, ...] | None = Field(
        None, min_length=1, max_length=10_000, description="The prompts themselves."
    )

    @model_validator(mode="after")
    def _one_of(self) -> "PromptSource":
        if (self.set is None) == (self.items is None):
            raise ValueError("give either `set` or `items`")
        return self


class Training(Contract):
    """The optimisation."""

    max_steps: int = Field(
        45,
        ge=1,
        le=1_000_000,
        description="Steps: a rollout and its updates (algorithm.updates_per_rollout, mostly 1).",
    )
    prompts_per_step: int = Field(8, ge=1, le=1024, description="Prompts of a rollout, over all processes.")
    learning_rate: float = Field(
        7e-4, gt=0, le=1, description="AdamW's rate. LoRA wants about ten times that of all weights."
    )
    weight_decay: float = Field(1e-4, ge=0, le=1, description="AdamW's decay. Source: supplement, Table 1.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's β₁.")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's β₂.")
    warmup_steps: int = Field(0, ge=0, le=100_000, description="Linear warm-up, in steps. Source: Table 1.")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="How the rate falls after the warm-up: not at all, or along a line or half a cosine to "
        "`lr_end_share` of it at `max_steps`.",
    )
    lr_end_share: float = Field(0.0, ge=0, le=1, description="Share of the rate at `max_steps`; unused if constant.")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Keep an exponential moving average of the trained weights, this much of it at each update. It is "
        "what held-out images are drawn with and what checkpoints offer; rollouts use the weights themselves.",
    )
    max_bad_steps: int = Field(
        3,
        ge=1,
        le=1000,
        description="Updates in a row that may be skipped for a gradient that is not finite before the run fails.",
    )
    max_missing_rewards: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of a step's images on which a reward may fail. What failed is missing, never a number "
        "made up.",
    )
    max_missing_steps: int = Field(
        3,
        ge=1,
        le=1000,
        description="Steps in a row in which a reward may fail on more than that share before the run pauses with "
        "`rewards_failed`; it pauses at the first where a server's reward fails on every image. It is not trained "
        "on the step at which it pauses.",
    )
    max_grad_norm: float = Field(1.0, gt=0, le=1e6, description="Gradients are clipped to this norm. Source: Table 1.")
    adapter: Literal["lora", "full"] = Field("lora", description="Train a LoRA adapter or all transformer weights.")
    lora_rank: int = Field(16, ge=1, le=1024, description="Rank r of the LoRA; unused with adapter `full`.")
    lora_alpha: float = Field(16.0, gt=0, le=4096, description="LoRA scale numerator α; unused with adapter `full`.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="`auto`: bfloat16 on CUDA, float32 on CPU. Log-probabilities and rewards are always float32.",
    )
    update_batch_size: int = Field(
        8,
        ge=1,
        le=1024,
        description="Samples per forward and backward of the update, whose gradients are accumulated. Stochastic steps "
        "and anchors use the same shape, so that the old log-probability is the policy's own to the last bit.",
    )
    gradient_checkpointing: bool = Field(
        False, strict=True, description="Recompute activations in the update: less memory, slower."
    )
    seed: int = Field(42, ge=0, le=2**63 - 1, description="Seeds noises and adapter initialisation. Source: Table 1.")
    sampler_seed: int = Field(1223627, ge=0, le=2**63 - 1, description="Seeds the order of prompts. Source: Table 1.")


class EarlyStop(Contract):
    """End the run, as succeeded, when a held-out reward no longer rises."""

    reward: Name = Field(description="One of the held-out rewards.")
    patience: int = Field(5, ge=1, le=10_000, description="Evaluations in a row without a new best before it ends.")
    min_delta: float = Field(0.0, ge=0, le=1000, description="By how much a new best must exceed the last one.")


class Heldout(Contract):
    """Held-out evaluation: the same prompts and noises every time, never trained on."""

    every: int = Field(
        5, ge=0, le=1_000_000, description="Steps between evaluations, also at start and end; 0 = never."
    )
    prompts: Name = Field("shapes-heldout", description="A prompt set of the catalog.")
    pairs: int = Field(
        128, ge=1, le=100_000, description="Pairs of prompt and noise behind each point of the `heldout/*` curves."
    )
    final_pairs: int = Field(
        1024,
        ge=0,
        le=100_000,
        description="Pairs behind the comparison of the first with the last policy, when more than `pairs`; "
        "the curves use the first `pairs` of them.",
    )
    rewards: tuple[Name, ...] | None = Field(
        None, min_length=1, max_length=8, description="Rewards of the catalog to report; null: those trained on."
    )
    seed: int = Field(7, ge=0, le=2**63 - 1, description="Seeds the held-out noises.")
    samples: int = Field(8, ge=0, le=64, description="Held-out images kept at each evaluation.")
    early_stop: EarlyStop | None = Field(None, description="When to end for want of progress; null: never.")


class Checkpoints(Contract):
    """When the policy is saved. The last step is always saved."""

    every: int = Field(20, ge=0, le=1_000_000, description="Steps between checkpoints; 0 = only at the end.")
    keep: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Newest checkpoints kept; null: all. The best one and those that waiting or working jobs need are "
        "never removed.",
    )
    best: Name | None = Field(
        None, description="Also save the policy whenever this held-out reward, its curve's value, is the best so far."
    )


class Resources(Contract):
    """What the run is given."""

    nodes: Literal[1] = Field(1, description="Machines. Only 1 is supported.")
    processes_per_node: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share the prompts of a step, each on a device of its own (on CPU: a share of the "
        "cores). Must divide training.prompts_per_step.",
    )
    offload_rewards: bool = Field(
        False,
        strict=True,
        description="Keep reward models in the machine's memory while they do not score: room on the GPU for the "
        "update, paid with two moves of them a step.",
    )


class Limits(Contract):
    """When the run is ended for taking too long."""

    wall_clock_seconds: float | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Seconds with a worker, over all attempts since it was created or resumed; then it is saved and "
        "fails with `budget_spent`. Null: the operator's limit alone.",
    )
    progress_timeout_seconds: float | None = Field(
        None, ge=60, le=86_400, description="A process silent for so many seconds is ended; null: the operator's."
    )


class RunSpec(Contract):
    """An alignment run. A preset fills what is not said; explicit fields win."""

    preset: Name = Field("shapes", description="A name of `GET /catalog`'s presets, such as `shapes` or `paper`.")
    name: str = Field("", max_length=200, pattern=r"^[^\x00]*$", description="A name for people.")
    labels: Labels = Field({}, description="Up to 32 labels to filter by.")
    model: Name = Field("shapes-flux", description="A model of the catalog.")
    start_from: UUID | None = Field(None, description="A checkpoint whose weights the run starts from.")
    sampling: Sampling = Sampling()
    algorithm: Algorithm = Field(default_factory=G2RPO, validate_default=True)
    rewards: tuple[Reward, ...] = Field(
        (Reward(name="clip_score"), Reward(name="shapes_verifier")),
        min_length=1,
        max_length=8,
        description="Trained on.",
    )
    prompts: PromptSource = PromptSource(set="shapes-train")
    training: Training = Field(Training(), validate_default=True)
    heldout: Heldout = Heldout()
    checkpoints: Checkpoints = Checkpoints()
    resources: Resources = Field(Resources(), validate_default=True)
    limits: Limits = Limits()
    priority: int = Field(0, ge=-100, le=100, description="Smaller is taken earlier; equal ones by age.")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        preset = data.get("preset", "shapes")
        if not isinstance(preset, str) or preset not in PRESETS:
            return data
        return merge(PRESETS[preset], data)

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; allowed are {', '.join(PRESETS)}")
        return preset

    @field_validator("algorithm")
    @classmethod
    def _within_schedule(cls, algorithm: Algorithm, info: ValidationInfo) -> Algorithm:
        sampling = info.data.get("sampling")
        if sampling is None:
            return algorithm
        algorithm.refuse_outside(sampling.steps)
        return algorithm

    @field_validator("training")
    @classmethod
    def _updates_take_whole_pieces(cls, training: Training, info: ValidationInfo) -> Training:
        algorithm = info.data.get("algorithm")
        if algorithm is None:
            return training
        if algorithm.kl_weight and training.adapter == "full":
            raise ValueError(
                f"adapter full has no frozen base for algorithm.kl_weight {algorithm.kl_weight}; "
                "allowed are adapter lora, or kl_weight 0"
            )
        refuse_split(algorithm, training.prompts_per_step, 1)
        return training

    @field_validator("heldout")
    @classmethod
    def _stops_by_a_reported_reward(cls, heldout: Heldout, info: ValidationInfo) -> Heldout:
        if heldout.early_stop is not None and "rewards" in info.data:
            refuse_unreported("early_stop.reward", heldout.early_stop.reward, heldout, info.data["rewards"])
        return heldout

    @field_validator("checkpoints")
    @classmethod
    def _best_by_a_reported_reward(cls, checkpoints: Checkpoints, info: ValidationInfo) -> Checkpoints:
        if checkpoints.best is not None and {"rewards", "heldout"} <= info.data.keys():
            refuse_unreported("best", checkpoints.best, info.data["heldout"], info.data["rewards"])
        return checkpoints

    @field_validator("resources")
    @classmethod
    def _processes_share_evenly(cls, resources: Resources, info: ValidationInfo) -> Resources:
        training, algorithm = info.data.get("training"), info.data.get("algorithm")
        if training is None or algorithm is None:
            return resources
        refuse_uneven(algorithm, training.prompts_per_step, resources.processes_per_node)
        return resources

    @field_validator("rewards")
    @classmethod
    def _distinct_rewards(cls, rewards: tuple[Reward, ...]) -> tuple[Reward, ...]:
        names = [reward.name for reward in rewards]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"{repeated} stand more than once; give each reward one weight")
        return rewards

    @property
    def heldout_rewards(self) -> tuple[str, ...]:
        """Names of the rewards reported on held-out images."""
        return self.heldout.rewards or tuple(reward.name for reward in self.rewards)


def refuse_uneven(algorithm: AlgorithmContract, prompts: int, processes: int) -> None:
    """Raise ValueError where `processes` cannot share the prompts of a step, or its updates, evenly."""
    if prompts % processes:
        raise ValueError(
            f"processes_per_node {processes} does not divide training.prompts_per_step {prompts}; "
            "allowed are its divisors"
        )
    refuse_split(algorithm, prompts, processes)


def refuse_split(algorithm: AlgorithmContract, prompts: int, processes: int) -> None:
    """Raise ValueError where an update would get a part of a group or chain, or not every process the same number."""
    pieces, updates = prompts * algorithm.pieces() // processes, algorithm.updates_per_rollout
    if pieces % updates:
        each = "groups of one SDE step" if algorithm.name == "g2rpo" else "chains"
        raise ValueError(
            f"algorithm.updates_per_rollout {updates} splits the rollout's {pieces} {each}"
            f"{' of a process' if processes > 1 else ''}; allowed are the divisors of {pieces}"
        )


def refuse_unreported(field: str, name: str, heldout: Heldout, rewards: tuple[Reward, ...]) -> None:
    """Raise ValueError where `name` is no held-out reward, or none is measured."""
    reported = heldout.rewards or tuple(reward.name for reward in rewards)
    if name not in reported:
        raise ValueError(f"{field} {name!r} is no held-out reward; allowed are {', '.join(reported)}")
    if not heldout.every:
        raise ValueError(f"{field} {name!r} needs held-out evaluations; heldout.every 0 has none, allowed is above 0")
