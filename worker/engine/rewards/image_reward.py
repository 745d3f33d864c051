"""ImageReward-v1.0: human preference for an image given its prompt, predicted by a BLIP trained on human rankings.

Source: Xu et al. 2023, arXiv:2304.05977, and its public implementation THUDM/ImageReward, which defines the constants.
"""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import BertTokenizer, PreTrainedTokenizerBase

from service.contracts.catalog import RewardEntry, Source
from worker.engine.models.sources import locate
from worker.engine.rewards.base import Reward
from worker.engine.rewards.blip import BlipScorer, BlipSizes, load_scorer
from worker.engine.rewards.preprocessing import OPENAI_MEAN, OPENAI_STD, center_square
from worker.engine.rewards.tokens import pretrained
from worker.engine.rewards.weights import find_file, read_tensors

FILES = ("ImageReward.safetensors", "ImageReward.pt")
"""Names of the weight file: converted to safetensors, and as published."""

_TOKENS = 35
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072
"""Mean and standard deviation of the raw scores on the authors' data, which standardize the reward."""


class ImageReward(Reward):
    """The ImageReward score, computed in float32, because z-scores amplify rounding errors within a group."""

    def __init__(self, scorer: BlipScorer, tokenizer: PreTrainedTokenizerBase, size: int, device: torch.device) -> None:
        self._scorer, self._tokenizer, self._size = scorer.to(device), tokenizer, size
        self._mean, self._std = (torch.tensor(v, device=device)[:, None, None] for v in (OPENAI_MEAN, OPENAI_STD))
        self._lock = threading.Lock()
        """Protects the tokenizer, which is not thread-safe."""

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device, sizes: BlipSizes | None = None) -> "ImageReward":
        if entry.source is None:
            raise ValueError(f"reward {entry.name!r} needs a source in the catalog")
        sizes = sizes or BlipSizes()
        try:
            tokenizer = _load_tokenizer(entry.tokenizer or entry.source, sizes.vocabulary)
            scorer = load_scorer(read_tensors(find_file(entry.source, FILES)), sizes)
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
        """Crop the center square of the images at the encoder's input size and normalize it."""
        return (center_square(images.to(self._mean), self._size) - self._mean) / self._std

    def _tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return truncated token ids and mask, each [n, 35]. Each distinct prompt is tokenized once."""
        unique = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        with self._lock:
            encoded = self._tokenizer(
                list(unique), padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt"
            )
        rows = torch.tensor([unique[prompt] for prompt in prompts])
        device = self._mean.device
        return encoded.input_ids[rows].to(device), encoded.attention_mask[rows].to(device)


def _load_tokenizer(source: Source, vocabulary: int) -> PreTrainedTokenizerBase:
    """Load bert-base-uncased with BLIP's two extra tokens. Texts start with [CLS], as in the authors' code.

    Raises ValueError if the tokenizer does not have `vocabulary` tokens.
    """
    tokenizer: PreTrainedTokenizerBase = pretrained(BertTokenizer, source)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    if len(tokenizer) != vocabulary:
        raise ValueError(
            f"with [DEC] and [ENC] the tokenizer at {locate(source)[0]} has {len(tokenizer)} tokens; the weights "
            f"require {vocabulary}; set `tokenizer` of the catalog entry to bert-base-uncased"
        )
    return tokenizer
