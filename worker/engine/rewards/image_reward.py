"""ImageReward-v1.0: how much people prefer an image for its prompt, by a BLIP that was trained on their rankings.

Source: Xu et al. 2023, arXiv:2304.05977, and its public implementation THUDM/ImageReward, from which the constants are.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertTokenizer, PreTrainedTokenizerBase

from service.contracts.catalog import RewardEntry, Source
from worker.engine.models.sources import access_token, locate
from worker.engine.rewards.base import Reward
from worker.engine.rewards.blip import BlipScorer, BlipSizes, load_scorer
from worker.engine.rewards.preprocessing import OPENAI_MEAN, OPENAI_STD, centre_square
from worker.engine.rewards.weights import find_file, read_tensors

FILES = ("ImageReward.safetensors", "ImageReward.pt")
"""What the weights are called: converted, and as published."""

_TOKENS = 35
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072
"""Of the head's raw values on the authors' data; the reward is standardised by them."""


class ImageReward(Reward):
    """Scores in float32, for spreads within a group are small and z-scores amplify rounding."""

    def __init__(self, scorer: BlipScorer, tokenizer: PreTrainedTokenizerBase, size: int, device: torch.device) -> None:
        self._scorer, self._tokenizer, self._size = scorer.to(device), tokenizer, size
        self._mean, self._std = (torch.tensor(v, device=device)[:, None, None] for v in (OPENAI_MEAN, OPENAI_STD))
        self._lock = threading.Lock()
        """Held by who tokenises: a tokenizer does not bear two threads at once."""

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device, sizes: BlipSizes | None = None) -> "ImageReward":
        if entry.source is None:
            raise ValueError(f"reward {entry.name!r} needs a source in the catalog")
        sizes = sizes or BlipSizes()
        try:
            tokenizer = _load_tokenizer(entry.tokenizer or entry.source, sizes.vocabulary)
            scorer = _read_scorer(find_file(entry.source, FILES), sizes)
        except ValueError as error:
            raise ValueError(f"reward {entry.name!r}: {error}") from error
        return cls(scorer, tokenizer, sizes.image, device)

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        tokens, mask = self._tokens(prompts)
        values: Tensor = self._scorer(self._prepare(images), tokens, mask)
        return (values - _MEAN) / _STD

    def move(self, device: torch.device) -> None:
        self._scorer.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)

    def _prepare(self, images: Tensor) -> Tensor:
        """The middle square of the images, resized so that it has the encoder's size, and normalised."""
        return (centre_square(images.to(self._mean), self._size) - self._mean) / self._std

    def _tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens and mask, [n, 35], of `prompts`, each tokenised once; what is longer is cut."""
        unique = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        with self._lock:
            told = self._tokenizer(
                list(unique), padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt"
            )
        rows = torch.tensor([unique[prompt] for prompt in prompts])
        device = self._mean.device
        return told.input_ids[rows].to(device), told.attention_mask[rows].to(device)


def _read_scorer(path: Path, sizes: BlipSizes) -> BlipScorer:
    tensors = read_tensors(path)
    try:
        return load_scorer(tensors, sizes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _load_tokenizer(source: Source, vocabulary: int) -> PreTrainedTokenizerBase:
    """bert-base-uncased with BLIP's two tokens; the text begins with [CLS] all the same, as the authors' does."""
    place, revision = locate(source)
    try:
        tokenizer = BertTokenizer.from_pretrained(place, revision=revision or "main", token=access_token(source))
    except OSError as error:
        raise ValueError(f"there is no tokenizer at {place}; the catalog's `tokenizer` names one: {error}") from error
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    if len(tokenizer) != vocabulary:
        raise ValueError(
            f"with [DEC] and [ENC] the tokenizer at {place} has {len(tokenizer)} tokens; "
            f"the weights want {vocabulary}, those of bert-base-uncased (`tokenizer` of its catalog entry)"
        )
    return tokenizer
