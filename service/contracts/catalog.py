"""The catalog: the models, rewards, prompt sets and judges that the operator offers, and that clients name."""

import os
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import Field, model_validator

from service.contracts.base import Contract, Name

BUNDLED = Path(__file__).with_name("catalog.yaml")


class Source(Contract):
    """Where weights come from: shipped with the worker, a directory of the operator's, or a hub repository."""

    bundled: Name | None = Field(None, description="A directory under worker/shapes/weights.")
    directory: Path | None = Field(None, description="A local diffusers or transformers directory.")
    hub: str | None = Field(None, description="A hub repository id, OWNER/NAME.")
    revision: str | None = Field(None, description="The hub revision to pin.")


class ModelEntry(Contract):
    """A flow text-to-image model."""

    name: Name
    family: Literal["flux"] = Field(description="The adapter that loads it.")
    source: Source
    description: str = ""
    steps: int = Field(description="Its own number of denoising steps.")
    shift: float = Field(description="Its own schedule shift.")
    guidance: float = Field(description="Its own guidance.")
    width: int = Field(description="Its own picture width, pixels.")
    height: int = Field(description="Its own picture height, pixels.")
    size_multiple: int = Field(16, description="Width and height must be multiples of this, pixels.")
    max_size: int = Field(description="The largest width and height, pixels.")
    text_length: int = Field(512, description="Tokens of the T5 sequence; pictures depend on it.")
    parameters: int = Field(description="Transformer parameters.")
    hidden_size: int = Field(3072, description="Width of the transformer's layers.")
    seconds_per_evaluation: float | None = Field(
        None, description="Measured seconds per sample and evaluation, batched."
    )
    measured_on: str = Field("", description="The device of `seconds_per_evaluation`.")
    lora_targets: tuple[str, ...] = Field(
        (
            "to_q",
            "to_k",
            "to_v",
            "to_out.0",
            "add_q_proj",
            "add_k_proj",
            "add_v_proj",
            "to_add_out",
            "proj_mlp",
            "proj_out",
            "ff.net.0.proj",
            "ff.net.2",
            "ff_context.net.0.proj",
            "ff_context.net.2",
        ),
        description="Linear layers (name endings) that get a LoRA.",
    )


class RewardEntry(Contract):
    """A reward: one value per picture, higher is better."""

    name: Name
    kind: Literal["clip", "shapes_verifier", "shapes_bench_verifier"] = Field(description="The class that computes it.")
    source: Source | None = None
    description: str = ""
    scale: str = Field("", description="What the values mean and where they usually lie.")


class JudgeEntry(Contract):
    """What tells whether pictures show what a benchmark asks for."""

    name: Name
    kind: Literal["perception", "openai"] = Field(
        description="`perception`: reads the bundled world's pictures; `openai`: a server of a vision-language model "
        "with the OpenAI chat protocol, such as vLLM."
    )
    description: str = ""
    url: str | None = Field(None, pattern=r"^https?://", description="The server's base URL, up to and with `/v1`.")
    model: str | None = Field(None, description="The model's name on the server; rows of one such name are compared.")
    token_env: str | None = Field(
        None, pattern=r"^[A-Z][A-Z0-9_]*$", description="Environment variable of the worker that holds the API key."
    )
    picture: Literal["jpeg", "png"] = Field(
        "jpeg", description="As the official scripts send it: `jpeg` of quality 95 (vLLM), `png` as drawn (Gemini)."
    )
    picture_first: bool = Field(True, description="Before the text (vLLM) or after it (Gemini).")
    max_tokens: int = Field(4096, ge=1, description="Of an answer.")
    concurrency: int = Field(20, ge=1, le=256, description="Requests at once.")
    timeout_seconds: float = Field(120.0, gt=0, description="Until an answer is there.")
    tries: int = Field(3, ge=1, le=10, description="How often one picture is asked about until an answer can be read.")
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


@cache
def load_catalog(path: Path | None = None) -> Catalog:
    """The catalog in `path`, else in the file that G2RPO_CATALOG names, else the bundled one."""
    chosen = path or (Path(os.environ["G2RPO_CATALOG"]) if os.environ.get("G2RPO_CATALOG") else BUNDLED)
    return Catalog.model_validate(yaml.safe_load(chosen.read_text(encoding="utf-8")))
