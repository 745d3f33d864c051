"""CLIP score: the cosine between a picture and its prompt, by any transformers `CLIPModel`."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerBase

from service.contracts.catalog import RewardEntry
from worker.models.sources import locate
from worker.rewards.base import Reward

_TEXT_CACHE = 65_536
"""Prompt embeddings kept; of ViT-H/14's 1024 floats that is 256 MiB."""


class ClipReward(Reward):
    """Scores in float32 (normalisation and dot product too): fp16 would quantise spreads that z-scores then amplify."""

    def __init__(self, model: CLIPModel, tokenizer: PreTrainedTokenizerBase, mean: Tensor, std: Tensor) -> None:
        self.model, self._tokenizer, self._mean, self._std = model, tokenizer, mean, std
        self._size = int(model.config.vision_config.image_size)
        self._length = int(model.config.text_config.max_position_embeddings)
        self._texts: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        """Held by who encodes: neither the cache nor a tokenizer bears two threads at once."""

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device, dtype: torch.dtype = torch.float32) -> "ClipReward":
        if entry.source is None:
            raise ValueError(f"reward {entry.name!r} needs a source in the catalog")
        place, revision = locate(entry.source)
        model = CLIPModel.from_pretrained(place, revision=revision or "main", dtype=dtype, use_safetensors=True)
        model.eval().requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision or "main")
        processor = CLIPImageProcessorPil.from_pretrained(place, revision=revision or "main")
        mean, std = (
            torch.tensor(values, dtype=dtype, device=device)[:, None, None]
            for values in (processor.image_mean, processor.image_std)
        )
        return cls(model.to(device), tokenizer, mean, std)

    def move(self, device: torch.device) -> None:
        with self._lock:
            self.model.to(device)
            self._mean, self._std = self._mean.to(device), self._std.to(device)
            self._texts = OrderedDict((prompt, embedding.to(device)) for prompt, embedding in self._texts.items())

    @torch.no_grad()
    def score(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        images = normalize(self.model.get_image_features(pixel_values=self._prepare(pictures)).pooler_output, dim=-1)
        return (images * self._encode(prompts)).sum(dim=-1)

    def _prepare(self, pictures: Tensor) -> Tensor:
        """Squash to the tower's size (bicubic, antialiased) and normalise; a picture of that size is left as it is."""
        pictures = pictures.to(self._mean)
        if pictures.shape[-2:] != (self._size, self._size):
            pictures = interpolate(pictures, (self._size, self._size), mode="bicubic", antialias=True).clamp(0, 1)
        return (pictures - self._mean) / self._std

    def _encode(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings [n, width] of `prompts`, each encoded once."""
        with self._lock:
            for prompt in dict.fromkeys(prompts):
                if prompt not in self._texts:
                    self._texts[prompt] = self._encoded(prompt)
                self._texts.move_to_end(prompt)
            embeddings = torch.stack([self._texts[prompt] for prompt in prompts])
            while len(self._texts) > _TEXT_CACHE:
                self._texts.popitem(last=False)
        return embeddings

    def _encoded(self, prompt: str) -> Tensor:
        tokens = self._tokenizer(
            prompt, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        ).to(self._mean.device)
        features = self.model.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        ).pooler_output
        return normalize(features[0], dim=-1)
