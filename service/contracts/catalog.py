"""The catalog of models, rewards, prompt sets and judges that are available to clients."""

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from service.contracts import catalog_file
from service.contracts.base import Contract, Name
from service.contracts.validation_errors import did_you_mean

BUNDLED = Path(__file__).with_name("catalog.yaml")

Variable = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$", max_length=100)]
"""Name of a worker environment variable that contains a secret."""


class Source(Contract):
    """Source of model weights: bundled with the worker, a local directory, or a hub repository."""

    bundled: Name | None = Field(None, description="A directory under worker/shapes/weights.")
    directory: Path | None = Field(None, description="A local diffusers or transformers directory.")
    hub: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$", description="A hub repository id, OWNER/NAME.")
    revision: str | None = Field(None, description="The hub revision to pin.")
    file: str | None = Field(None, pattern=r"^[\w-][\w.-]*$", description="Name of the weights file.")
    token_env: Variable | None = Field(None, description="Worker environment variable that contains the access token.")

    @model_validator(mode="after")
    def _check_source(self) -> "Source":
        given = [name for name in ("bundled", "directory", "hub") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a source needs exactly one of `bundled`, `directory`, `hub`; given: {', '.join(given) or 'none'}"
            )
        if self.hub is None and (self.revision or self.token_env):
            raise ValueError("`revision` and `token_env` require `hub`")
        return self


class RemoteServer(Contract):
    """Connection to the server of a reward or judge."""

    url: str | None = Field(None, pattern=r"^https?://", description="Base URL of the server, including `/v1`.")
    model: str | None = Field(None, description="Name of the model on the server, and label of its results.")
    token_env: Variable | None = Field(None, description="Worker environment variable that contains the API key.")
    concurrency: int = Field(20, ge=1, le=256, description="Maximum concurrent requests.")
    timeout_seconds: float = Field(120.0, gt=0, description="Timeout of a request.")
    tries: int = Field(3, ge=1, le=10, description="Maximum requests per image for a valid answer.")
    image_format: Literal["jpeg", "png"] = Field(
        "jpeg",
        description="Image format of the official scripts: `jpeg` of quality 95 (vLLM), `png` unchanged (Gemini).",
    )
    image_first: bool = Field(True, description="Send the image before the text (vLLM) or after it (Gemini).")
    max_tokens: int = Field(4096, ge=1, description="Maximum number of tokens in an answer.")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="Name of the request field for `max_tokens`; newer servers use the second."
    )
    temperature: float | None = Field(
        0.0, ge=0, le=2, description="Sampling temperature; null: not sent, for servers that refuse it."
    )


_JOINT = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
_LORA_TARGETS = {"flux": (*_JOINT, "proj_mlp", "proj_out", *_FEED_FORWARD), "sd3": (*_JOINT, *_FEED_FORWARD)}
"""Attention and feed-forward layers of the transformer blocks, by model family."""

_SD3_ENCODERS = 5_580_620_800
"""Number of parameters in the text encoders of Stable Diffusion 3.5: CLIP-L, CLIP bigG and T5-XXL."""


class ModelInfo(Contract):
    """The client-visible properties of a flow-matching text-to-image model."""

    name: Name
    family: Literal["flux", "sd3"] = Field(description="Architecture: FLUX.1 or Stable Diffusion 3.5.")
    description: str = ""
    steps: int = Field(description="Default number of denoising steps.")
    shift: float = Field(description="Default schedule shift.")
    guidance: float = Field(
        description="Default guidance scale: embedded in FLUX.1; classifier-free in Stable Diffusion 3.5, where values "
        "above 1 double the NFE."
    )
    width: int = Field(description="Default image width in pixels.")
    height: int = Field(description="Default image height in pixels.")
    size_multiple: int = Field(16, description="Width and height must be multiples of this number of pixels.")
    max_size: int = Field(description="Maximum width and height in pixels.")
    text_length: int = Field(512, description="Sequence length of the T5 encoder in tokens; images depend on it.")
    parameters: int = Field(description="Number of parameters of the transformer.")
    seconds_per_nfe: float | None = Field(None, description="Measured seconds per sample and NFE, batched.")
    seconds_per_compiled_nfe: float | None = Field(
        None, gt=0, description="Measured seconds per sample and NFE with `sampling.compile`, batched."
    )
    measured_on: str = Field("", description="Device on which the seconds were measured, at the default image size.")


class ModelEntry(ModelInfo):
    """The full catalog entry of a model, including its source and the sizes that plans use."""

    source: Source
    dynamic_shift: bool = Field(
        False, description="Derive the shift from the image size, as FLUX.1-dev does, and ignore `shift`."
    )
    hidden_size: int = Field(3072, description="Width of the transformer's layers.")
    blocks: int = Field(19, ge=1, description="Number of joint blocks. Default: FLUX.1's; for `sd3`: hidden_size / 64.")
    single_blocks: int = Field(38, ge=0, description="Number of single-stream blocks. Default: FLUX.1's; for `sd3`: 0.")
    dual_attention_blocks: int = Field(
        0, ge=0, description="Number of blocks with a second attention layer: 13 in SD 3.5 medium."
    )
    token_pixels: int = Field(16, ge=1, description="Width in pixels of the square that a token represents.")
    out_channels: int = Field(64, ge=1, description="Output channels of the transformer per token.")
    encoder_parameters: int = Field(
        4_885_371_136, ge=0, description="Parameters of the text encoders. Default: FLUX.1's."
    )
    decoder_parameters: int = Field(83_819_683, ge=0, description="Parameters of the autoencoder. Default: FLUX.1's.")
    seconds_per_decode: float | None = Field(None, ge=0, description="Measured seconds per decoded image, batched.")
    seconds_per_update: float | None = Field(
        None, ge=0, description="Measured seconds per sample of a forward and backward pass without recomputation."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision for specs with `auto`; `auto`: bfloat16 on CUDA, float32 on CPU."
    )
    lora_targets: tuple[str, ...] = Field(
        (), description="Suffixes of the names of the layers with a LoRA; empty: the default layers of the family."
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_family_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = dict(data)
        if given.get("family") == "sd3":
            width = given.get("hidden_size")
            own = {"single_blocks": 0, "encoder_parameters": _SD3_ENCODERS}
            given = own | ({"blocks": width // 64} if isinstance(width, int) else {}) | given
        if not given.get("lora_targets"):
            given["lora_targets"] = _LORA_TARGETS.get(str(given.get("family")), ())
        return given

    def own_shift(self, width: int, height: int) -> float:
        """Return the schedule shift that the model's own pipeline uses for images of the given size in pixels.

        A dynamic shift is e^μ, where μ is linear in the number of tokens: 0.5 at 256 tokens and 1.15 at 4096 tokens
        (FLUX.1-dev's scheduler configuration).
        """
        if not self.dynamic_shift:
            return self.shift
        tokens = (width // self.size_multiple) * (height // self.size_multiple)
        return math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))

    def passes(self, guidance: float) -> int:
        """Return the NFE per velocity: 2 if classifier-free guidance also evaluates the empty prompt, otherwise 1."""
        return 2 if self.family == "sd3" and guidance > 1 else 1


Axis = Literal["alignment", "coherence", "style"]
"""The score axes of UnifiedReward 2.0."""


REWARD_CLASSES = {
    "clip": "clip:ClipReward",
    "hps": "hps:HpsReward",
    "pickscore": "pickscore:PickScoreReward",
    "image_reward": "image_reward:ImageReward",
    "unified_reward": "unified_reward:UnifiedReward",
    "http": "custom_http:HttpReward",
    "shapes_verifier": "shapes_verifier:ShapesVerifierReward",
    "shapes_bench_verifier": "shapes_verifier:ShapesBenchVerifierReward",
}
"""Module and class in `worker.engine.rewards` for each reward kind. Workers import a class when a job uses it."""


def _check_reward_kind(kind: str) -> str:
    if kind not in REWARD_CLASSES:
        hint = did_you_mean(kind, REWARD_CLASSES)
        raise ValueError(f"Unknown kind {kind!r}{hint}. Available: {', '.join(REWARD_CLASSES)}")
    return kind


class RewardInfo(Contract):
    """The client-visible properties of a reward, which assigns one value to each image; higher is better."""

    name: Name
    kind: Annotated[str, AfterValidator(_check_reward_kind)] = Field(
        description="The class that computes the reward.", json_schema_extra={"enum": [*REWARD_CLASSES]}
    )
    description: str = ""
    scale: str = Field("", description="Meaning and usual range of the values.")


class RewardEntry(RemoteServer, RewardInfo):
    """The full catalog entry of a reward, including the source of its weights or its server."""

    source: Source | None = Field(None, description="Source of the weights of a reward that the worker computes.")
    tokenizer: Source | None = Field(None, description="Source of the tokenizer, if it is not stored with the weights.")
    parameters: int | None = Field(
        None, ge=0, description="Number of parameters of the reward model, in float32. The default depends on `kind`."
    )
    seconds_per_image: float | None = Field(None, ge=0, description="Measured seconds per scored image, batched.")
    form: Literal["final_score", "axes"] = Field(
        "axes",
        description="Output format of a UnifiedReward model: `final_score` (the first models), or `axes`: scores for "
        "alignment, coherence and style (2.0).",
    )
    axes: dict[Axis, float] = Field(
        {"alignment": 1.0, "coherence": 1.0, "style": 1.0},
        description="Weights of the axes in the mean; omitted axes are ignored.",
    )
    batch_size: int = Field(8, ge=1, le=256, description="Images per request, for kind `http`.")
    range: tuple[float, float] | None = Field(None, description="Values mapped to 0 and 1; null: no scaling.")

    @model_validator(mode="before")
    @classmethod
    def _apply_kind_defaults(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("parameters") is None:
            return {**data, "parameters": _REWARD_PARAMETERS.get(str(data.get("kind")))}
        return data

    @model_validator(mode="after")
    def _check_required(self) -> "RewardEntry":
        if self.kind in _WEIGHTED and self.source is None:
            raise ValueError(f"reward {self.name}: kind `{self.kind}` needs a `source`")
        if self.kind in ("unified_reward", "http") and self.url is None:
            raise ValueError(f"reward {self.name}: kind `{self.kind}` needs a `url`")
        if self.kind == "unified_reward" and self.model is None:
            raise ValueError(f"reward {self.name}: kind `unified_reward` needs a `model`")
        if min(self.axes.values(), default=0.0) < 0 or not any(self.axes.values()):
            raise ValueError(f"reward {self.name}: axes {self.axes} must not be negative, and one must be positive")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"reward {self.name}: range {list(self.range)} must be ascending")
        return self

    @property
    def remote(self) -> bool:
        """Whether a server computes the reward."""
        return self.url is not None

    def normalized(self, value: float) -> float:
        """Return the raw value, scaled linearly so that `range` maps to 0 and 1."""
        low, high = self.range or (0.0, 1.0)
        return (value - low) / (high - low)


_WEIGHTED = ("clip", "hps", "pickscore", "image_reward")
_VIT_H = 986_109_441
_REWARD_PARAMETERS = {"clip": _VIT_H, "hps": _VIT_H, "pickscore": _VIT_H, "image_reward": 447_000_000}
"""Number of parameters by reward kind: CLIP ViT-H/14, or BLIP ViT-L/16 with cross attention for `image_reward`."""


class JudgeEntry(RemoteServer):
    """The catalog entry of a judge, which decides whether images meet the test points of a benchmark."""

    name: Name
    kind: Literal["perception", "openai"] = Field(
        description="`perception`: recognizes shapes in images of the bundled world; `openai`: a vision-language model "
        "behind a server with the OpenAI chat protocol, such as vLLM."
    )
    description: str = ""
    patience_seconds: float = Field(300.0, ge=0, description="Maximum seconds to wait for an unavailable server.")

    @model_validator(mode="after")
    def _check_required(self) -> "JudgeEntry":
        if self.kind == "openai" and (self.url is None or self.model is None):
            raise ValueError(f"judge {self.name}: kind `openai` needs `url` and `model`")
        return self

    @property
    def identity(self) -> str:
        """The label of the judge's scores. Scores with different labels are not comparable."""
        return self.model or self.name


class PromptSetInfo(Contract):
    """The client-visible properties of a named list of prompts."""

    name: Name
    kind: Literal["shapes", "shapes_bench", "file"] = Field(
        description="`shapes`, `shapes_bench`: generated by a bundled grammar; `file`: one prompt per line."
    )
    split: Literal["train", "heldout"] | None = Field(None, description="The part of the generated prompts to use.")
    description: str = ""


class PromptSetEntry(PromptSetInfo):
    """The full catalog entry of a prompt set, including its file."""

    path: Path | None = Field(None, description="Path of a UTF-8 text file, for kind `file`.")


class Catalog(Contract):
    """All models, rewards, prompt sets and judges that clients can refer to by name."""

    models: tuple[ModelEntry, ...]
    rewards: tuple[RewardEntry, ...]
    prompt_sets: tuple[PromptSetEntry, ...]
    judges: tuple[JudgeEntry, ...] = ()

    def model(self, name: str) -> ModelEntry:
        """Return the model with the given name. Raises KeyError, which lists the known names."""
        return _find("model", self.models, name)

    def reward(self, name: str) -> RewardEntry:
        """Return the reward with the given name. Raises KeyError, which lists the known names."""
        return _find("reward", self.rewards, name)

    def prompt_set(self, name: str) -> PromptSetEntry:
        """Return the prompt set with the given name. Raises KeyError, which lists the known names."""
        return _find("prompt set", self.prompt_sets, name)

    def judge(self, name: str) -> JudgeEntry:
        """Return the judge with the given name. Raises KeyError, which lists the known names."""
        return _find("judge", self.judges, name)


Entry = TypeVar("Entry", ModelEntry, RewardEntry, PromptSetEntry, JudgeEntry)


def _find(noun: str, entries: tuple[Entry, ...], name: str) -> Entry:
    for entry in entries:
        if entry.name == name:
            return entry
    allowed = ", ".join(entry.name for entry in entries)
    hint = did_you_mean(name, (entry.name for entry in entries))
    raise KeyError(f"Unknown {noun} {name!r}{hint}; the catalog has {allowed}")


def catalog_path(path: Path | None = None) -> Path:
    """Return `path` if given, otherwise the path in G2RPO_CATALOG, otherwise the path of the bundled catalog."""
    return path or (Path(os.environ["G2RPO_CATALOG"]) if os.environ.get("G2RPO_CATALOG") else BUNDLED)


def load_catalog(path: Path | None = None) -> Catalog:
    """Load the catalog from its file.

    Raises CatalogError if the file is not a valid catalog, and OSError if it cannot be read.
    """
    chosen = catalog_path(path)
    contents = catalog_file.read(chosen, BUNDLED, Catalog)
    try:
        return Catalog.model_validate(contents)
    except ValidationError as error:
        raise catalog_file.explain(chosen, error, contents, Catalog) from error
