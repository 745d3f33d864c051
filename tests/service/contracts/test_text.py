"""The characters that names, labels and prompts may contain."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.api.checkpoints.schemas import ImportQuery
from service.api.curves.schemas import ComparisonQuery
from service.api.keys.schemas import KeySpec
from service.api.prompt_sets.schemas import PromptSetQuery
from service.api.runs.schemas import RunChanges
from service.contracts.evaluations import EvaluationSpec
from service.contracts.generations import GenerationSpec
from service.contracts.runs import RunSpec

INVISIBLE = [0x00, 0x09, 0x0A, 0x1B, 0x7F, 0x85, 0x9B, 0x061C, 0x200E, 0x200F, 0x2028, 0x2029]
INVISIBLE += [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
GROUP = ":00000000-0000-0000-0000-000000000000"
NAMES = {
    "run name": (RunSpec, lambda text: {"name": text}),
    "label name": (RunSpec, lambda text: {"labels": {text: "a"}}),
    "label value": (RunSpec, lambda text: {"labels": {"a": text}}),
    "changed run name": (RunChanges, lambda text: {"name": text}),
    "changed label": (RunChanges, lambda text: {"labels": {"a": text}}),
    "checkpoint name": (ImportQuery, lambda text: {"model": "m", "name": text}),
    "evaluation name": (EvaluationSpec, lambda text: {"benchmark": "b", "name": text}),
    "key name": (KeySpec, lambda text: {"name": text, "scopes": ["read"]}),
    "group name": (ComparisonQuery, lambda text: {"group": [text + GROUP], "metric": ["loss"]}),
}
TEXTS = {
    "notes": (RunChanges, lambda text: {"notes": text}),
    "description": (PromptSetQuery, lambda text: {"name": "p", "description": text}),
    "training prompt": (RunSpec, lambda text: {"prompts": {"items": [text]}}),
    "prompt": (GenerationSpec, lambda text: {"prompts": [text]}),
}


@pytest.mark.parametrize("field", NAMES)
def test_a_name_has_no_character_that_hides_or_reorders_text(field: str) -> None:
    model, body = NAMES[field]
    for code in INVISIBLE:
        with pytest.raises(ValidationError, match=rf"character 3 is U\+{code:04X}; .* are not allowed"):
            model.model_validate(body(f"ab{chr(code)}c"))


@pytest.mark.parametrize("field", [*NAMES, *TEXTS])
@pytest.mark.parametrize("text", ["مرحبا", "👩🏽‍🚀", "e\u0301", "naïve – “x”", "日本語", "\U0001d518"])
def test_text_of_every_script_is_allowed(field: str, text: str) -> None:
    model, body = {**NAMES, **TEXTS}[field]
    model.model_validate(body(text))


@pytest.mark.parametrize("field", TEXTS)
def test_longer_text_may_have_lines_but_no_other_control_characters(field: str) -> None:
    model, body = TEXTS[field]
    valid: Any = model.model_validate(body("a\n\tb\r\nc"))
    assert "a\\n\\tb\\r\\nc" in valid.model_dump_json()
    for code in (0x00, 0x08, 0x1B, 0x7F, 0x9B):
        with pytest.raises(ValidationError, match=rf"character 2 is U\+{code:04X}; control characters"):
            model.model_validate(body(f"a{chr(code)}"))
