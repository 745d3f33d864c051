"""Tokenization of prompts for CLIP's text tower."""

import html
from typing import Any

import ftfy
import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerBase

from service.contracts.catalog import Source
from worker.engine.models.sources import access_token, locate


def clean(prompt: str) -> str:
    """Clean a prompt as open_clip does before BPE.

    Repairs broken Unicode, unescapes HTML entities twice, collapses whitespace and converts to lower case.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split()).lower()


class Tokens:
    """Tokenizes a prompt for a text tower.

    The tokens are truncated to the tower's context length and end with the end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int, cleaned: bool) -> None:
        self._tokenizer, self._length, self._cleaned = tokenizer, length, cleaned

    def __call__(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        """Return token ids [1, length] and the attention mask, or None for cleaned prompts.

        open_clip pads with 0 and uses no mask, because a causal tower ignores tokens after the end token.
        """
        if self._cleaned:
            ids = self._tokenizer(clean(prompt), truncation=True, max_length=self._length).input_ids
            return torch.tensor([ids + [0] * (self._length - len(ids))]), None
        encoded = self._tokenizer(
            prompt, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        )
        return encoded.input_ids, encoded.attention_mask


def pretrained(kind: Any, source: Source) -> Any:
    """Load a transformers tokenizer of class `kind`. Raises ValueError if the source has none."""
    place, revision = locate(source)
    try:
        return kind.from_pretrained(place, revision=revision or "main", token=access_token(source))
    except (OSError, ValueError) as error:
        raise ValueError(f"no tokenizer at {place}; set `tokenizer` of the catalog entry: {error}") from error


def load_tokens(source: Source, length: int, vocabulary: int, cleaned: bool) -> Tokens:
    """Load the tokenizer of a CLIP text tower with context length `length`.

    cleaned: whether to clean prompts as open_clip does and use CLIP's vocabulary; otherwise the directory's own
    tokenizer is used. Raises ValueError if there is no tokenizer or its size does not match `vocabulary`.
    """
    tokenizer = pretrained(CLIPTokenizer if cleaned else AutoTokenizer, source)
    if len(tokenizer) > vocabulary or (cleaned and len(tokenizer) != vocabulary):
        raise ValueError(
            f"the tokenizer at {locate(source)[0]} has {len(tokenizer)} tokens, the weights {vocabulary}; set "
            "`tokenizer` of the catalog entry to a directory with CLIP's vocab.json and merges.txt"
        )
    return Tokens(tokenizer, length, cleaned)
