"""CLIP score: the cosine similarity of an image and its prompt. Reads weights in transformers or open_clip layout."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPImageProcessorPil, CLIPModel

from service.contracts.catalog import RewardEntry, Source
from worker.engine.models.sources import access_token, locate
from worker.engine.models.weights import check_loaded
from worker.engine.rewards.base import Reward
from worker.engine.rewards.open_clip import CONFIG, architecture, read_config, to_transformers
from worker.engine.rewards.preprocessing import OPENAI_MEAN, OPENAI_STD, middle, squashed
from worker.engine.rewards.tokens import Tokens, load_tokens
from worker.engine.rewards.weights import find_file, find_optional, read_tensors

_TEXT_CACHE = 65_536
"""Maximum number of cached prompt embeddings: 256 MiB for ViT-H/14, with 1024 floats each."""

Fit = Callable[[Tensor, int], Tensor]
"""A function that turns images [n, 3, height, width] in 0..1 into squares of the given size."""


@dataclass(frozen=True)
class Preprocessing:
    """How images and prompts are prepared for the towers."""

    fit: Fit
    mean: Sequence[float] = OPENAI_MEAN
    std: Sequence[float] = OPENAI_STD
    cleans_text: bool = True
    """Whether prompts are cleaned as in open_clip."""


class ClipReward(Reward):
    """Cosine similarity of image and prompt.

    Scores, including normalization and dot product, are computed in float32, because z-scores would amplify fp16
    rounding errors.
    """

    published: ClassVar[tuple[str, ...]] = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    """Names of weight files in the open_clip layout."""

    described: ClassVar[bool] = True
    """Whether a weight file needs open_clip's configuration file, the only source of the activation function."""

    def __init__(self, model: CLIPModel, tokens: Tokens, fit: Fit, mean: Sequence[float], std: Sequence[float]) -> None:
        self.model, self._tokens, self._fit = model, tokens, fit
        self._mean, self._std = (
            torch.tensor(v, dtype=model.dtype, device=model.device)[:, None, None] for v in (mean, std)
        )
        self._size = int(model.config.vision_config.image_size)
        self._texts: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        """Protects the cache and the tokenizer, which are not thread-safe."""

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device, dtype: torch.dtype = torch.float32) -> Self:
        if entry.source is None:
            raise ValueError(f"reward {entry.name!r} needs a source in the catalog")
        try:
            model = cls.read_model(entry.source, dtype)
            text = model.config.text_config
            steps = cls.preprocessing(entry.source)
            source = entry.tokenizer or entry.source
            tokens = load_tokens(source, text.max_position_embeddings, text.vocab_size, steps.cleans_text)
        except ValueError as error:
            raise ValueError(f"reward {entry.name!r}: {error}") from error
        return cls(model.eval().requires_grad_(False).to(device), tokens, steps.fit, steps.mean, steps.std)

    @classmethod
    def read_model(cls, source: Source, dtype: torch.dtype) -> CLIPModel:
        """Load the towers on the CPU. Raises ValueError if tensors are missing, unexpected, or have wrong shapes."""
        if not _is_file(source):
            return _read_directory(source, dtype)
        path, description = find_file(source, cls.published), find_optional(source, CONFIG)
        if description is None and cls.described:
            raise ValueError(f"{path.name} needs {CONFIG} in the same directory, for its activation and heads")
        tensors = read_tensors(path, within="state_dict")
        try:
            config = architecture(tensors, read_config(description) if description else None)
            tensors = to_transformers(tensors, config)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return _built(None, dtype, config=config, state_dict=tensors)

    @classmethod
    def preprocessing(cls, source: Source) -> Preprocessing:
        """Return the preprocessing from open_clip's configuration file or, if it is missing, the image processor's.

        Raises ValueError for a resize mode other than squash and shortest.
        """
        path, processor = find_optional(source, CONFIG), None if _is_file(source) else _processor(source)
        stated = read_config(path).get("preprocess_cfg", {}) if path else {}
        if path is None and processor is not None:
            fit = _fit_of(processor)
        else:
            mode = stated.get("resize_mode") or "shortest"  # open_clip's default
            if mode not in _FITS:
                raise ValueError(f"{CONFIG} has resize_mode {mode!r}; expected {' or '.join(_FITS)}")
            fit = _FITS[mode]
        if processor is not None:
            return Preprocessing(fit, processor.image_mean, processor.image_std, cleans_text=path is not None)
        mean, std = stated.get("mean", OPENAI_MEAN), stated.get("std", OPENAI_STD)
        return Preprocessing(fit, mean, std, cleans_text=path is not None)

    def move(self, device: torch.device) -> None:
        with self._lock:
            self.model.to(device)
            self._mean, self._std = self._mean.to(device), self._std.to(device)
            self._texts = OrderedDict((prompt, embedding.to(device)) for prompt, embedding in self._texts.items())

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return (self.image_features(images) * self.text_features(prompts)).sum(dim=-1)

    def prepare(self, images: Tensor) -> Tensor:
        """Turn images [n, 3, height, width] in 0..1 into squares of the vision tower's input size."""
        return self._fit(images, self._size)

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """Compute unit embeddings [n, width] of images [n, 3, height, width] in 0..1."""
        pixels = (self.prepare(images.to(self._mean)) - self._mean) / self._std
        return normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Return unit embeddings [n, width] of `prompts`. Each distinct prompt is encoded once and cached."""
        with self._lock:
            for prompt in dict.fromkeys(prompts):
                if prompt not in self._texts:
                    self._texts[prompt] = self.token_features(*self._tokens(prompt))[0]
                self._texts.move_to_end(prompt)
            embeddings = torch.stack([self._texts[prompt] for prompt in prompts])
            while len(self._texts) > _TEXT_CACHE:
                self._texts.popitem(last=False)
        return embeddings

    @torch.no_grad()
    def token_features(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute unit embeddings [n, width] of token ids [n, length]."""
        device = self._mean.device
        features = self.model.get_text_features(
            input_ids=ids.to(device), attention_mask=None if mask is None else mask.to(device)
        ).pooler_output
        return normalize(features, dim=-1)


_FITS: dict[str, Fit] = {"squash": squashed, "shortest": middle}
"""Resize functions by open_clip's `resize_mode`."""


def _processor(source: Source) -> CLIPImageProcessorPil:
    place, revision = locate(source)
    try:
        return CLIPImageProcessorPil.from_pretrained(place, revision=revision or "main", token=access_token(source))
    except OSError as error:
        raise ValueError(f"no preprocessor_config.json at {place}: {error}") from error


def _fit_of(processor: CLIPImageProcessorPil) -> Fit:
    size, crop = processor.size, processor.crop_size if processor.do_center_crop else None
    cut = (crop.height, crop.width) if crop else None
    if processor.do_resize:
        if size.height and size.height == size.width and cut in (None, (size.height, size.width)):
            return squashed
        if size.shortest_edge and not size.longest_edge and cut == (size.shortest_edge, size.shortest_edge):
            return partial(middle, whole=math.floor)  # transformers rounds the margin down, open_clip to the nearest
    raise ValueError(
        f"preprocessor_config.json has do_resize {processor.do_resize}, size {_sides(size)}, crop {_sides(crop)}; "
        "expected a size of equal height and width, or a shortest_edge with a center crop of the same size"
    )


def _sides(size: Any) -> dict[str, int] | None:
    return size and {name: sides for name, sides in dict(size).items() if sides}


def _is_file(source: Source) -> bool:
    """Whether the source is a weight file in the open_clip layout rather than a transformers directory."""
    return source.file is not None or (not source.hub and not Path(locate(source)[0], "config.json").is_file())


def _read_directory(source: Source, dtype: torch.dtype) -> CLIPModel:
    place, revision = locate(source)
    try:
        return _built(place, dtype, revision=revision or "main", token=access_token(source), use_safetensors=True)
    except OSError as error:
        raise ValueError(f"{place} has no CLIPModel with safetensors: {error}") from error


def _built(place: str | None, dtype: torch.dtype, **given: Any) -> CLIPModel:
    """Build a transformers CLIPModel.

    Raises ValueError for missing, unexpected or mismatched tensors, for which transformers only logs a warning.
    """
    model, report = CLIPModel.from_pretrained(
        place, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **given
    )
    check_loaded(str(place), report)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.clone()  # the memory alignment of a file view affects the last bits
    return model
