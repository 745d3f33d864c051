"""Token ids equal the token ids of the original packages."""

from pathlib import Path

import pytest
import torch

from service.contracts.catalog import Source
from tests.worker.engine.rewards.conftest import Golden
from worker.engine.rewards.tokens import clean, load_tokens


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("A  PHOTO of a cat,\n  sitting!", "a photo of a cat, sitting!"),
        ("“curly quotes” &amp; &lt;html&gt; entities", '"curly quotes" & <html> entities'),
        ("twice &amp;amp; said", "twice & said"),
        ("ﬁne ligatures", "fine ligatures"),
        ("  ", ""),
    ],
)
def test_prompts_are_cleaned_as_open_clip_does(prompt: str, cleaned: str) -> None:
    assert clean(prompt) == cleaned


def test_tokens_are_open_clips(golden: Golden, clip_vocabulary: Path) -> None:
    tokens = load_tokens(Source(directory=clip_vocabulary), 77, 49408, cleaned=True)
    ids = torch.cat([tokens(prompt)[0] for prompt in golden["prompts"]])
    assert torch.equal(ids.int(), golden["token_ids"])


def test_long_prompt_keeps_its_end_token(vocabulary: Path) -> None:
    ids, mask = load_tokens(Source(directory=vocabulary), 77, 49408, cleaned=True)("word " * 100)
    assert ids.shape == (1, 77)
    assert ids[0, -1] == 49407
    assert mask is None


def test_short_prompt_is_padded_with_zeros(vocabulary: Path) -> None:
    ids, _ = load_tokens(Source(directory=vocabulary), 77, 49408, cleaned=True)("a")
    assert ids[0, :4].tolist() == [49406, 256 + 64, 49407, 0]


def test_directory_without_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokenizer at"):
        load_tokens(Source(directory=tmp_path), 77, 49408, cleaned=True)
