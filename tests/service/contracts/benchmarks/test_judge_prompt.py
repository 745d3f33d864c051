"""The judge prompt, filled in as in the official script."""

import pytest

from service.contracts.benchmarks.data import JudgePrompt
from tests.service.unigenbench import benchmark

PROMPT = benchmark().prompts[0]
ONE, TWO = PROMPT.points[:2]


def words(template: str) -> JudgePrompt:
    return JudgePrompt(
        template=template,
        definitions={point.name: f"{point.name} means it" for point in PROMPT.points},
        definitions_heading="Means",
        descriptions_heading="Here",
    )


class TestFill:
    def test_the_prompt_replaces_every_placeholder(self) -> None:
        assert words("{prompt}, {prompt}").fill(PROMPT) == f"{PROMPT.text}, {PROMPT.text}"

    def test_placeholders_in_a_prompt_are_not_replaced(self) -> None:
        odd = PROMPT.model_copy(update={"text": "a {testpoint} and a }"})
        assert words("«{prompt}»").fill(odd) == "«a {testpoint} and a }»"

    def test_test_points_are_listed_as_python_does(self) -> None:
        short = PROMPT.model_copy(update={"points": (ONE, TWO, ONE)})
        assert words("{testpoint}").fill(short) == f"['{ONE.name}', '{TWO.name}', '{ONE.name}']"

    def test_definitions_and_descriptions_have_a_line_each(self) -> None:
        other = ONE.model_copy(update={"description": "something else"})
        twice = PROMPT.model_copy(update={"points": (ONE, other)})
        assert words("{explanation}").fill(twice) == (
            f"Means:「\n{ONE.name}: {ONE.name} means it\n{ONE.name}: {ONE.name} means it\n」"
        )
        assert words("{test_explanation}").fill(twice) == (
            f"Here:「\n{ONE.name}: {ONE.description}\n{ONE.name}: something else\n」"
        )

    def test_a_dimension_without_a_definition_is_named(self) -> None:
        stranger = ONE.model_copy(update={"name": "Taste"})
        with pytest.raises(ValueError, match="does not define these dimensions of prompt 0: 'Taste'"):
            words("{explanation}").fill(PROMPT.model_copy(update={"points": (ONE, stranger)}))
