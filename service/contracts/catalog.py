"""The catalog: the models, rewards, prompt sets and judges that the operator offers, and that clients name."""

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints, ValidationError, model_validator

from service.contracts import catalog_file
from service.contracts.base import Contract, Name

BUNDLED = Path(__file__).with_name("catalog.yaml")

Variable = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$", max_length=100)]
"""An environment variable of the worker, which holds what must not stand in a file."""


class Source(Contract):
    """Where weights come from: shipped with the worker, a directory of the operator's, or a hub repository."""

    bundled: Name | None = Field(None, description="A directory under worker/shapes/weights.")
    directory: Path | None = Field(None, description="A local diffusers or transformers directory.")
    hub: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$", description="A hub repository id, OWNER/NAME.")
    revision: str | None = Field(None, description="The hub revision to pin.")
    file: str | None = Field(
        None, pattern=r"^[\w-][\w.-]*$", description="The one file in it that has the weights, where there are others."
    )
    token_env: Variable | None = Field(
        None, description="Environment variable of the worker that holds the hub's access token."
    )

    @model_validator(mode="after")
    def _one_place(self) -> "Source":
        given = [name for name in ("bundled", "directory", "hub") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a source is one of `bundled`, `directory`, `hub`; this one gives {given or 'none'}")
        if self.hub is None and (self.revision or self.token_env):
            raise ValueError("`revision` and `token_env` belong to a source on the hub")
        return self


class Asked(Contract):
    """A server that is asked over HTTP, and how patiently."""

    url: str | None = Field(None, pattern=r"^https?://", description="The server's base URL, up to and with `/v1`.")
    model: str | None = Field(None, description="The model's name on the server; rows of one such name are compared.")
    token_env: Variable | None = Field(None, description="Environment variable of the worker that holds the API key.")
    concurrency: int = Field(20, ge=1, le=256, description="Requests at once.")
    timeout_seconds: float = Field(120.0, gt=0, description="Until an answer is there.")
    tries: int = Field(3, ge=1, le=10, description="How often one image is asked about until an answer can be read.")
    image_format: Literal["jpeg", "png"] = Field(
        "jpeg", description="As the official scripts send it: `jpeg` of quality 95 (vLLM), `png` as drawn (Gemini)."
    )
    image_first: bool = Field(True, description="Before the text (vLLM) or after it (Gemini).")
    max_tokens: int = Field(4096, ge=1, description="Of an answer.")


_JOINT = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
_LORA_TARGETS = {"flux": (*_JOINT, "proj_mlp", "proj_out", *_FEED_FORWARD), "sd3": (*_JOINT, *_FEED_FORWARD)}
"""Attention and feed-forward layers of the blocks, by family."""

_SD3_ENCODERS = 5_580_620_800
"""Parameters of Stable Diffusion 3.5's text encoders: CLIP-L, CLIP bigG and T5-XXL."""


class ModelEntry(Contract):
    """A flow text-to-image model."""

    name: Name
    family: Literal["flux", "sd3"] = Field(description="The adapter that loads it: FLUX.1, or Stable Diffusion 3.5.")
    source: Source
    description: str = ""
    steps: int = Field(description="Its own number of denoising steps.")
    shift: float = Field(description="Its own schedule shift.")
    dynamic_shift: bool = Field(
        False, description="Its own shift follows the size, as FLUX.1-dev's scheduler has it; `shift` is then unused."
    )
    guidance: float = Field(
        description="Its own guidance: embedded in FLUX.1; classifier-free in Stable Diffusion 3.5, where more than 1 "
        "evaluates the network twice."
    )
    width: int = Field(description="Its own image width, pixels.")
    height: int = Field(description="Its own image height, pixels.")
    size_multiple: int = Field(16, description="Width and height must be multiples of this, pixels.")
    max_size: int = Field(description="The largest width and height, pixels.")
    text_length: int = Field(512, description="Tokens of the T5 sequence; images depend on it.")
    parameters: int = Field(description="Transformer parameters.")
    hidden_size: int = Field(3072, description="Width of the transformer's layers.")
    blocks: int = Field(19, ge=1, description="Blocks of two streams. Default: FLUX.1's; for `sd3` hidden_size / 64.")
    single_blocks: int = Field(38, ge=0, description="Blocks of one stream. Default: FLUX.1's; `sd3` has none.")
    dual_attention_blocks: int = Field(0, ge=0, description="Blocks with a second attention: 13 of SD 3.5 medium.")
    token_pixels: int = Field(16, ge=1, description="Side of the square of pixels that a token stands for.")
    out_channels: int = Field(64, ge=1, description="Numbers that the transformer gives for a token.")
    encoder_parameters: int = Field(
        4_885_371_136, ge=0, description="Parameters of all text encoders. Default: CLIP-L and T5-XXL, FLUX.1's."
    )
    decoder_parameters: int = Field(83_819_683, ge=0, description="Parameters of the autoencoder. Default: FLUX.1's.")
    seconds_per_nfe: float | None = Field(None, description="Measured seconds per sample and evaluation, batched.")
    seconds_per_compiled_nfe: float | None = Field(None, gt=0, description="The same with `sampling.compile`.")
    seconds_per_decode: float | None = Field(None, ge=0, description="Measured seconds per decoded image, batched.")
    seconds_per_update: float | None = Field(
        None, ge=0, description="Measured seconds per forward and backward pass of a sample, without recomputing."
    )
    measured_on: str = Field("", description="The device of the measured seconds, which hold for its own size.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision where the spec says `auto`; `auto`: bfloat16 on CUDA, float32 on CPU."
    )
    lora_targets: tuple[str, ...] = Field(
        (), description="Linear layers (name endings) that get a LoRA; none given: the family's own."
    )

    @model_validator(mode="before")
    @classmethod
    def _as_in_the_family(cls, data: Any) -> Any:
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
        """The schedule shift that its own pipeline has for an image of that size in pixels.

        A dynamic one is e^μ, with μ on a line through 0.5 at 256 tokens and 1.15 at 4096 (FLUX.1-dev's
        scheduler configuration).
        """
        if not self.dynamic_shift:
            return self.shift
        tokens = (width // self.size_multiple) * (height // self.size_multiple)
        return math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))

    def passes(self, guidance: float) -> int:
        """Rows of the network for one sample's velocity: classifier-free guidance needs one without the prompt too."""
        return 2 if self.family == "sd3" and guidance > 1 else 1


Axis = Literal["alignment", "coherence", "style"]
"""What UnifiedReward 2.0 gives a score each."""


class RewardEntry(Asked):
    """A reward: one value per image, higher is better."""

    name: Name
    kind: Literal[
        "clip",
        "hps",
        "pickscore",
        "image_reward",
        "unified_reward",
        "http",
        "shapes_verifier",
        "shapes_bench_verifier",
    ] = Field(description="The class that computes it.")
    source: Source | None = Field(None, description="Its weights, for a reward that is computed by the worker.")
    tokenizer: Source | None = Field(None, description="Its tokenizer, where that is not beside the weights.")
    description: str = ""
    scale: str = Field("", description="What the values mean and where they usually lie.")
    parameters: int | None = Field(
        None,
        ge=0,
        description="Parameters of its model, which the worker holds in float32. Default: those of its kind.",
    )
    seconds_per_image: float | None = Field(None, ge=0, description="Measured seconds per scored image, batched.")
    form: Literal["final_score", "axes"] = Field(
        "axes",
        description="What a UnifiedReward is asked for: `final_score` (the first models), or `axes`: scores for "
        "alignment, coherence and style (2.0).",
    )
    axes: dict[Axis, float] = Field(
        {"alignment": 1.0, "coherence": 1.0, "style": 1.0},
        description="Weight of each axis in the value, which is their weighted mean; one not named has no part in it.",
    )
    batch_size: int = Field(8, ge=1, le=256, description="Images of one request, for kind `http`.")
    range: tuple[float, float] | None = Field(
        None, description="Values that are normalised to 0 and 1; null: normalised values are the raw ones."
    )

    @model_validator(mode="before")
    @classmethod
    def _as_big_as_its_kind(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("parameters") is None:
            return {**data, "parameters": _REWARD_PARAMETERS.get(str(data.get("kind")))}
        return data

    @model_validator(mode="after")
    def _complete(self) -> "RewardEntry":
        if self.kind in _WEIGHTED and self.source is None:
            raise ValueError(f"reward {self.name}: kind `{self.kind}` needs a `source`")
        if self.kind in ("unified_reward", "http") and self.url is None:
            raise ValueError(f"reward {self.name}: kind `{self.kind}` needs a `url`")
        if self.kind == "unified_reward" and self.model is None:
            raise ValueError(f"reward {self.name}: kind `unified_reward` needs a `model`")
        if min(self.axes.values(), default=0.0) < 0 or not any(self.axes.values()):
            raise ValueError(f"reward {self.name}: axes {self.axes} need weights of 0 and more, one of them above 0")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"reward {self.name}: range {list(self.range)} must rise")
        return self

    @property
    def remote(self) -> bool:
        """Whether a server is asked for it."""
        return self.url is not None

    def normalised(self, value: float) -> float:
        """A raw value on the scale that `range` makes 0 to 1."""
        low, high = self.range or (0.0, 1.0)
        return (value - low) / (high - low)


_WEIGHTED = ("clip", "hps", "pickscore", "image_reward")
_VIT_H = 986_109_441
_REWARD_PARAMETERS = {"clip": _VIT_H, "hps": _VIT_H, "pickscore": _VIT_H, "image_reward": 447_000_000}
"""CLIP ViT-H/14, and BLIP ViT-L/16 with cross attention."""


class JudgeEntry(Asked):
    """What tells whether images show what a benchmark asks for."""

    name: Name
    kind: Literal["perception", "openai"] = Field(
        description="`perception`: reads the bundled world's images; `openai`: a server of a vision-language model "
        "with the OpenAI chat protocol, such as vLLM."
    )
    description: str = ""
    patience_seconds: float = Field(
        300.0, ge=0, description="How long a server that is away or fails is waited for, before the evaluation stops."
    )

    @model_validator(mode="after")
    def _complete(self) -> "JudgeEntry":
        if self.kind == "openai" and (self.url is None or self.model is None):
            raise ValueError(f"judge {self.name}: kind `openai` needs `url` and `model`")
        return self

    @property
    def identity(self) -> str:
        """What scores are labelled with, for those of different judges cannot be compared."""
        return self.model or self.name


class PromptSetEntry(Contract):
    """A named list of prompts."""

    name: Name
    kind: Literal["shapes", "shapes_bench", "file"] = Field(
        description="`shapes`, `shapes_bench`: made by a bundled grammar; `file`: one prompt a line."
    )
    split: Literal["train", "heldout"] | None = Field(None, description="Which part of the bundled world's prompts.")
    path: Path | None = Field(None, description="The operator's UTF-8 text file, for kind `file`.")
    description: str = ""


class Catalog(Contract):
    """Everything a client may name."""

    models: tuple[ModelEntry, ...]
    rewards: tuple[RewardEntry, ...]
    prompt_sets: tuple[PromptSetEntry, ...]
    judges: tuple[JudgeEntry, ...] = ()

    def model(self, name: str) -> ModelEntry:
        """The model of that name; KeyError says which there are."""
        return _find("model", self.models, name)

    def reward(self, name: str) -> RewardEntry:
        """The reward of that name; KeyError says which there are."""
        return _find("reward", self.rewards, name)

    def prompt_set(self, name: str) -> PromptSetEntry:
        """The prompt set of that name; KeyError says which there are."""
        return _find("prompt set", self.prompt_sets, name)

    def judge(self, name: str) -> JudgeEntry:
        """The judge of that name; KeyError says which there are."""
        return _find("judge", self.judges, name)


Entry = TypeVar("Entry", ModelEntry, RewardEntry, PromptSetEntry, JudgeEntry)


def _find(noun: str, entries: tuple[Entry, ...], name: str) -> Entry:
    for entry in entries:
        if entry.name == name:
            return entry
    allowed = ", ".join(entry.name for entry in entries)
    raise KeyError(f"unknown {noun} {name!r}; the catalog has {allowed}")


def catalog_path(path: Path | None = None) -> Path:
    """`path`, else the file that G2RPO_CATALOG names, else the bundled one."""
    return path or (Path(os.environ["G2RPO_CATALOG"]) if os.environ.get("G2RPO_CATALOG") else BUNDLED)


def load_catalog(path: Path | None = None) -> Catalog:
    """The catalog as its file is now. Raises CatalogError, and OSError where there is no such file."""
    chosen = catalog_path(path)
    said = catalog_file.read(chosen, BUNDLED, Catalog)
    try:
        return Catalog.model_validate(said)
    except ValidationError as error:
        raise catalog_file.explain(chosen, error, said, Catalog) from error
