"""Word-level CLIP and T5 tokenizers for a world's vocabulary."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from worker.shapes import TEXT_LENGTH

PAD, END, UNKNOWN, START = "<pad>", "</s>", "<unk>", "<s>"
SPECIAL = (PAD, END, UNKNOWN, START)
"""Special tokens in the order of their ids.

The id of the end token must not be 2: transformers' CLIP text model would treat the model as an old checkpoint and
pool every prompt to the same vector.
"""


def clip_tokenizer(vocabulary: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Build the tokenizer for CLIP, which encodes a caption as `<s> words </s>`."""
    return _tokenizer(vocabulary, f"{START} $A {END}", bos_token=START)


def t5_tokenizer(vocabulary: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Build the tokenizer for T5, which encodes a caption as `words </s>`."""
    return _tokenizer(vocabulary, f"$A {END}")


def _tokenizer(vocabulary: tuple[str, ...], template: str, **special: str) -> PreTrainedTokenizerFast:
    numbers = {token: index for index, token in enumerate((*SPECIAL, *vocabulary))}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(token, numbers[token]) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=TEXT_LENGTH,
        padding_side="right",
        **special,
    )
