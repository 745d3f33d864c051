"""The spec of an alignment run."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from service.contracts.algorithms import G2RPO, Algorithm, AlgorithmContract
from service.contracts.base import ONE_LINE, Contract, DisplayName, Name, Pixels, Prompt, refuse_repeated
from service.contracts.presets import PRESETS, merge
from service.contracts.validation_errors import did_you_mean

SPEC_VERSION = 1

Label = Annotated[str, StringConstraints(min_length=1, max_length=100), ONE_LINE]
Labels = Annotated[dict[Label, Label], Field(max_length=32, json_schema_extra={"additionalProperties": False})]
"""Labels of a run. In the JSON schema, `additionalProperties: false` excludes names that do not match the pattern."""

BatchSize = Annotated[int, Field(ge=1, le=1024)]
Count = Annotated[int, Field(ge=1, le=1000)]
Pairs = Annotated[int, Field(le=100_000)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
Steps = Annotated[int, Field(ge=0, le=1_000_000)]


class Sampling(Contract):
    """Denoising schedule and image size for rollouts, anchors and held-out images."""

    steps: int = Field(8, ge=2, le=200, description="Number of denoising steps T.")
    shift: float = Field(3.0, ge=0.1, le=20, description="Schedule shift s. Source: supplement, Table 1.")
    width: Pixels = Field(32, description="Image width in pixels.")
    height: Pixels = Field(32, description="Image height in pixels.")
    guidance: float = Field(
        3.5,
        ge=0,
        le=30,
        description="Guidance scale: embedded in FLUX.1; classifier-free in Stable Diffusion 3.5, where values above 1 "
        "double the NFE.",
    )
    rollout_batch_size: BatchSize = Field(
        96, description="Samples per forward pass in rollouts; does not affect results."
    )
    decode_batch_size: BatchSize = Field(96, description="Images per decoder and reward call.")
    compile: bool = Field(
        False,
        strict=True,
        description="Use `torch.compile` where no log-probabilities are needed: faster on a GPU, after some minutes of "
        "compilation. Images differ in the last digits.",
    )


class Reward(Contract):
    """A training reward and its weight in the sum of advantages."""

    name: Name = Field(description="A reward of the catalog.")
    weight: float = Field(1.0, gt=-100, lt=100, description="Weight w_k of this reward's advantages; must not be 0.")

    @field_validator("weight")
    @classmethod
    def _check_nonzero(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("weight 0 has no effect; to report the reward only, list it in heldout.rewards")
        return weight


class _OrName:
    """Adds a name as an alternative to the JSON schema of an object, in requests as in responses."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), TypeAdapter(Name).json_schema()]}


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _check_rewards(rewards: tuple[Reward, ...]) -> tuple[Reward, ...]:
    refuse_repeated([reward.name for reward in rewards])
    return rewards


class PromptSource(Contract):
    """The training prompts: either a named prompt set or a list of prompts."""

    set: Name | None = Field(None, description="A prompt set of the catalog, or an uploaded prompt set.")
    items: tuple[Prompt, ...] | None = Field(None, min_length=1, max_length=10_000, description="A list of prompts.")

    @model_validator(mode="after")
    def _check_source(self) -> "PromptSource":
        if (self.set is None) == (self.items is None):
            raise ValueError("give either `set` or `items`")
        return self


class Training(Contract):
    """Optimizer, adapter, precision and seeds."""

    max_steps: int = Field(
        45,
        ge=1,
        le=1_000_000,
        description="Number of training steps. A step is a rollout and its algorithm.updates_per_rollout updates.",
    )
    prompts_per_step: BatchSize = Field(8, description="Prompts per rollout, over all processes.")
    learning_rate: float = Field(
        7e-4, gt=0, le=1, description="Learning rate of AdamW; for LoRA, about 10× that of `full`."
    )
    weight_decay: Share = Field(1e-4, description="Weight decay of AdamW. Source: supplement, Table 1.")
    beta1: float = Field(0.9, ge=0, lt=1, description="β₁ of AdamW.")
    beta2: float = Field(0.999, ge=0, lt=1, description="β₂ of AdamW.")
    warmup_steps: int = Field(0, ge=0, le=100_000, description="Steps of linear warm-up. Source: Table 1.")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="Learning rate after the warm-up: constant, or decaying to `lr_end_factor` at `max_steps`.",
    )
    lr_end_factor: Share = Field(0.0, description="Factor of the learning rate at `max_steps`; unused if constant.")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of an exponential moving average of the trained weights, which held-out evaluation and "
        "checkpoints use; rollouts use the weights themselves. Null: no average.",
    )
    max_nonfinite_updates: Count = Field(
        3, description="Consecutive updates with non-finite gradients at which the run fails."
    )
    max_missing_rewards: Share = Field(
        0.5,
        description="Maximum share of a step's images for which a reward may fail. Failed values are missing values.",
    )
    max_missing_steps: Count = Field(
        3,
        description="Maximum consecutive steps above `max_missing_rewards` before the run pauses with "
        "`rewards_failed`, without training on the last of them. If a remote reward fails on every image of a step, "
        "the run pauses immediately.",
    )
    max_grad_norm: float = Field(1.0, gt=0, le=1e6, description="Maximum gradient norm. Source: Table 1.")
    adapter: Literal["lora", "full"] = Field("lora", description="Train a LoRA adapter, or all transformer weights.")
    lora_rank: int = Field(16, ge=1, le=1024, description="Rank r of the LoRA; unused with adapter `full`.")
    lora_alpha: float = Field(16.0, gt=0, le=1e6, description="LoRA scale numerator α; unused with adapter `full`.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="`auto`: bfloat16 on CUDA, float32 on CPU. Log-probabilities and rewards are always float32.",
    )
    update_batch_size: BatchSize = Field(
        8,
        description="Samples per forward and backward pass of an update; gradients are accumulated. SDE steps and "
        "anchors use the same batch shape, so that old log-probabilities are exact to the last bit.",
    )
    gradient_checkpointing: bool = Field(False, strict=True, description="Recompute activations to save memory.")
    seed: Seed = Field(42, description="Seed of noise and adapter initialization. Source: Table 1.")
    sampler_seed: Seed = Field(1223627, description="Seed of the order of prompts. Source: Table 1.")


class EarlyStop(Contract):
    """Early stopping: end the run as succeeded when a held-out reward stops improving."""

    reward: Name = Field(description="One of the held-out rewards.")
    patience: int = Field(5, ge=1, le=10_000, description="Evaluations without a new best value before the run stops.")
    min_delta: float = Field(0.0, ge=0, le=1000, description="Minimum improvement for a new best value.")


class Heldout(Contract):
    """Held-out evaluation on a fixed set of prompts and noises that are not used for training."""

    every: Steps = Field(
        5, description="Steps between evaluations; the first and last policy are also evaluated. 0: never."
    )
    prompts: Name = Field("shapes-heldout", description="A prompt set of the catalog, or an uploaded prompt set.")
    pairs: Pairs = Field(128, ge=1, description="Pairs of prompt and noise per point of the `heldout/*` curves.")
    final_pairs: Pairs = Field(
        1024,
        ge=0,
        description="Pairs for comparing the first with the last policy, if more than `pairs`; curves use the first "
        "`pairs` of them.",
    )
    rewards: tuple[Name, ...] | None = Field(
        None, min_length=1, max_length=8, description="Rewards of the catalog to report; null: the training rewards."
    )
    seed: Seed = Field(7, description="Seed of the held-out noise.")
    samples: int = Field(8, ge=0, le=64, description="Number of held-out images stored per evaluation.")
    group_images_mib: float = Field(
        16,
        ge=0,
        le=100_000,
        allow_inf_nan=False,
        description="Disk space in MiB for the images of all groups of a step's first prompt, which are stored at each "
        "evaluation after the first; 0: they are not stored. Each evaluation gets the same share, and stores whole "
        "groups until its share is used.",
    )
    early_stop: EarlyStop | None = Field(None, description="Early stopping; null: disabled.")


class Checkpoints(Contract):
    """Settings for saving checkpoints. The last step is always saved."""

    every: Steps = Field(20, description="Steps between checkpoints; 0: only at the end.")
    keep: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Number of newest checkpoints to keep; null: all. The best one and those that unfinished jobs need "
        "are always kept.",
    )
    best: Name | None = Field(None, description="Also save a checkpoint at each new best of this held-out reward.")


class Resources(Contract):
    """The devices that a run uses."""

    nodes: Literal[1] = Field(1, description="Number of machines. Only 1 is supported.")
    processes_per_node: int = Field(
        1,
        ge=1,
        le=64,
        description="Number of processes, each on one device (on CPU: a share of the cores), which share the prompts "
        "of a step. Must divide training.prompts_per_step.",
    )
    offload_rewards: bool = Field(
        False,
        strict=True,
        description="Move idle reward models to main memory: less GPU memory, two transfers per step.",
    )


class Limits(Contract):
    """Time limits of a run."""

    wall_clock_seconds: float | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Maximum seconds with a worker, over all attempts since the run was created or resumed. Then a "
        "checkpoint is saved and the run fails with `budget_spent`. Null: the operator's limit.",
    )
    progress_timeout_seconds: float | None = Field(
        None,
        ge=60,
        le=86_400,
        description="Maximum seconds without progress before the process is ended; null: the operator's limit.",
    )


class RunSpec(Contract):
    """The spec of an alignment run. Explicit fields override the preset's fields."""

    preset: Name = Field("shapes", description="A preset of `GET /catalog`, such as `shapes` or `paper`.")
    name: DisplayName = Field("", description="Display name.")
    labels: Labels = Field({}, description="Up to 32 labels to filter by.")
    model: Name = Field("shapes-flux", description="A model of the catalog.")
    start_from: UUID | None = Field(None, description="Id of the checkpoint that provides the initial weights.")
    sampling: Sampling = Sampling()
    algorithm: Algorithm = Field(default_factory=G2RPO, validate_default=True)
    rewards: Annotated[
        tuple[Annotated[Reward, BeforeValidator(_named), _OrName()], ...],
        AfterValidator(_check_rewards),
    ] = Field(
        (Reward(name="clip_score"), Reward(name="shapes_verifier")),
        min_length=1,
        max_length=8,
        description="Training rewards, each an object or only its name.",
    )
    prompts: PromptSource = PromptSource(set="shapes-train")
    training: Training = Field(Training(), validate_default=True)
    heldout: Heldout = Heldout()
    checkpoints: Checkpoints = Checkpoints()
    resources: Resources = Field(Resources(), validate_default=True)
    limits: Limits = Limits()
    priority: int = Field(
        0, ge=-100, le=100, description="Priority in the queue: lower numbers run first, then older runs."
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        preset = data.get("preset", "shapes")
        if not isinstance(preset, str) or preset not in PRESETS:
            return data
        return merge(PRESETS[preset], data)

    @field_validator("preset")
    @classmethod
    def _check_preset(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ValueError(f"Unknown preset {preset!r}{did_you_mean(preset, PRESETS)}; allowed: {', '.join(PRESETS)}")
        return preset

    @field_validator("algorithm")
    @classmethod
    def _check_schedule(cls, algorithm: Algorithm, info: ValidationInfo) -> Algorithm:
        if "sampling" in info.data:
            algorithm.refuse_outside(info.data["sampling"].steps)
        return algorithm

    @field_validator("training")
    @classmethod
    def _check_updates(cls, training: Training, info: ValidationInfo) -> Training:
        if (algorithm := info.data.get("algorithm")) is None:
            return training
        if algorithm.kl_weight and training.adapter == "full":
            raise ValueError(
                f"adapter full has no frozen base for algorithm.kl_weight {algorithm.kl_weight}; "
                "allowed: adapter lora, or kl_weight 0"
            )
        refuse_split(algorithm, training.prompts_per_step, 1)
        return training

    @field_validator("heldout")
    @classmethod
    def _check_early_stop(cls, heldout: Heldout, info: ValidationInfo) -> Heldout:
        if heldout.early_stop is not None and "rewards" in info.data:
            refuse_unreported("early_stop.reward", heldout.early_stop.reward, heldout, info.data["rewards"])
        return heldout

    @field_validator("checkpoints")
    @classmethod
    def _check_best(cls, checkpoints: Checkpoints, info: ValidationInfo) -> Checkpoints:
        if checkpoints.best is not None and {"rewards", "heldout"} <= info.data.keys():
            refuse_unreported("best", checkpoints.best, info.data["heldout"], info.data["rewards"])
        return checkpoints

    @field_validator("resources")
    @classmethod
    def _check_processes(cls, resources: Resources, info: ValidationInfo) -> Resources:
        if {"training", "algorithm"} <= info.data.keys():
            prompts = info.data["training"].prompts_per_step
            refuse_uneven(info.data["algorithm"], prompts, resources.processes_per_node)
        return resources

    @property
    def heldout_rewards(self) -> tuple[str, ...]:
        """The names of the rewards that held-out evaluation reports."""
        return self.heldout.rewards or tuple(reward.name for reward in self.rewards)


def refuse_uneven(algorithm: AlgorithmContract, prompts: int, processes: int) -> None:
    """Raise ValueError unless the prompts and updates of a step can be divided evenly among `processes` processes."""
    if prompts % processes:
        raise ValueError(f"processes_per_node {processes} must be a divisor of training.prompts_per_step {prompts}")
    refuse_split(algorithm, prompts, processes)


def refuse_split(algorithm: AlgorithmContract, prompts: int, processes: int) -> None:
    """Raise ValueError unless each process can divide its groups or chains evenly among the updates of a rollout."""
    pieces, updates = prompts * algorithm.pieces() // processes, algorithm.updates_per_rollout
    if pieces % updates:
        each = "groups of one SDE step" if algorithm.name == "g2rpo" else "chains"
        raise ValueError(
            f"algorithm.updates_per_rollout {updates} must be a divisor of {pieces}, the number of {each} in a rollout"
            f"{' per process' if processes > 1 else ''}"
        )


def refuse_unreported(field: str, name: str, heldout: Heldout, rewards: tuple[Reward, ...]) -> None:
    """Raise ValueError unless held-out evaluation is enabled and reports the reward `name`."""
    reported = heldout.rewards or tuple(reward.name for reward in rewards)
    if name not in reported:
        raise ValueError(f"{field} {name!r} is not a held-out reward; allowed: {', '.join(reported)}")
    if not heldout.every:
        raise ValueError(f"{field} {name!r} requires held-out evaluation; heldout.every is 0 and must be above 0")
