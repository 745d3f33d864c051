"""The judge of the bundled world: answers contain the results of the benchmark's rules and can be parsed."""

import numpy as np
import pytest

from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.catalog import load_catalog
from tests.worker.engine.evaluation.setting import benchmark as another
from worker.engine.evaluation.judges import Judge, load_judge
from worker.engine.models.images import png

pytest.importorskip("worker.shapes.bench")

from worker.shapes.bench import judge_points
from worker.shapes.bench.benchmark import benchmark
from worker.shapes.bench.scene import draw
from worker.shapes.bench.scene_layout import realize
from worker.shapes.grammar import parse

PROMPTS = benchmark().prompts[::30]
IMAGES = draw([realize(parse(prompt.text), np.random.default_rng(0)) for prompt in PROMPTS])


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge(load_catalog().judge("perception"), benchmark())


def test_scores_equal_the_rules(judge: Judge) -> None:
    for place, prompt in enumerate(PROMPTS):  # the correct image, and the two images before it
        shown = IMAGES[[place, place - 1, place - 2]]
        reported = [judge.ask(prompt, png(image)).verdict.scores for image in shown]
        assert reported == judge_points(shown, [prompt.text] * len(shown))


def test_response_text_describes_the_observations(judge: Judge) -> None:
    reported = judge.ask(PROMPTS[0], png(IMAGES[0]))
    assert reported.text is not None
    assert reported.text.startswith("Background: ") and "Seen: a " in reported.text
    assert reported.text.endswith(f"<score>{list(reported.verdict.scores or ())}</score>")


def test_prompt_outside_the_grammar_has_no_scores(judge: Judge) -> None:
    stranger = another().prompts[0].model_copy(update={"text": "two pandas in spacesuits"})
    reported = judge.ask(stranger, png(IMAGES[0]))
    assert (reported.text, reported.verdict.failure) == (None, Failure.NO_ANSWER)
    assert reported.error
