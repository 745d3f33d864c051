"""The two word-level tokenizers, made of the grammar's vocabulary."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from worker.shapes import TEXT_LENGTH
from worker.shapes.grammar import VOCABULARY

PAD, END, UNKNOWN, START = "<pad>", "</s>", "<unk>", "<s>"
SPECIAL = (PAD, END, UNKNOWN, START)
"""In this order, so that the end token is not 2: transformers' CLIP text model takes 2 for a mark of old checkpoints
and would pool every prompt to the same vector."""
TOKENS = (*SPECIAL, *VOCABULARY)


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """`<s> words </s>`, as CLIP has it."""
    return _tokenizer(f"{START} $A {END}", bos_token=START)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """`words </s>`, as T5 has it."""
    return _tokenizer(f"$A {END}")


def _tokenizer(template: str, **special: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(TOKENS)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(token, TOKENS.index(token)) for token in (START, END)]
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
