"""Prompts as token ids for CLIP's text tower."""

import html

import ftfy
import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerBase

from service.contracts.catalog import Source
from worker.engine.models.sources import access_token, locate


def clean(prompt: str) -> str:
    """As open_clip cleans a text before its BPE: repaired, HTML entities read twice, single blanks, lower case."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split()).lower()


class Tokens:
    """Token ids of one prompt; what is longer than the tower's context is cut, and the end token stays."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int, cleaned: bool) -> None:
        self._tokenizer, self._length, self._cleaned = tokenizer, length, cleaned

    def __call__(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        """Ids [1, length] and the mask of what is no padding.

        open_clip pads with 0 and masks nothing: what follows the end token is not seen by a causal tower.
        """
        if self._cleaned:
            ids = self._tokenizer(clean(prompt), truncation=True, max_length=self._length).input_ids
            return torch.tensor([ids + [0] * (self._length - len(ids))]), None
        told = self._tokenizer(
            prompt, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        )
        return told.input_ids, told.attention_mask


def load_tokens(source: Source, length: int, vocabulary: int, cleaned: bool) -> Tokens:
    """`cleaned`: as open_clip does it, with CLIP's own vocabulary; else as the directory's tokenizer does.

    ValueError where the tokenizer is not there, or not that of a model with `vocabulary` tokens.
    """
    place, revision = locate(source)
    kind = CLIPTokenizer if cleaned else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(place, revision=revision or "main", token=access_token(source))
    except (OSError, ValueError) as error:
        raise ValueError(f"there is no tokenizer at {place}; the catalog's `tokenizer` names one: {error}") from error
    if len(tokenizer) > vocabulary or (cleaned and len(tokenizer) != vocabulary):
        raise ValueError(
            f"the tokenizer at {place} has {len(tokenizer)} tokens, the weights {vocabulary}; CLIP's own has "
            "vocab.json and merges.txt (`tokenizer` of the catalog entry)"
        )
    return Tokens(tokenizer, length, cleaned)
