"""The bundled benchmark equals the command's output, covers every dimension, and is excluded from training."""

import json
from collections import Counter

import numpy as np
import pytest

from service.contracts.benchmarks.bundled import FILE, bundled
from service.contracts.benchmarks.dimensions import PRIMARY, SUB
from worker.shapes.bench import judge_points
from worker.shapes.bench.__main__ import main
from worker.shapes.bench.benchmark import benchmark
from worker.shapes.bench.caption_sampling import Part, heldout_prompts, part_of, train_prompts
from worker.shapes.bench.scene import draw
from worker.shapes.bench.scene_layout import realize
from worker.shapes.grammar import parse


def test_file_is_what_the_command_makes(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    made = tmp_path / "made.json"
    monkeypatch.setattr("sys.argv", ["bench", "--out", str(made)])
    main()
    assert made.read_bytes() == FILE.read_bytes()
    assert bundled() == benchmark()


def test_every_dimension_has_enough_test_points() -> None:
    counted = Counter(point.primary for prompt in bundled().prompts for point in prompt.points)
    assert len(bundled().prompts) >= 200
    assert set(counted) == set(PRIMARY) and min(counted.values()) >= 20
    assert all(point.dimension in SUB for prompt in bundled().prompts for point in prompt.points)
    assert all(1 <= len(prompt.points) <= 4 for prompt in bundled().prompts)


def test_no_prompt_of_it_is_in_the_prompt_sets_or_could_be() -> None:
    texts = {prompt.text for prompt in bundled().prompts}
    assert len(texts) == len(bundled().prompts)
    assert {part_of(text) for text in texts} == {Part.BENCHMARK}
    assert not texts & {*train_prompts(), *heldout_prompts()}


def test_it_is_nowhere_called_by_the_name_of_another_one() -> None:
    assert "unigen" not in json.dumps(bundled().model_dump(mode="json")).lower()


def test_images_of_its_prompts_can_meet_all_points() -> None:
    rng = np.random.default_rng(7)
    images = draw([realize(parse(prompt.text), rng) for prompt in bundled().prompts])
    scores = [score for row in judge_points(images, bundled().prompts) for score in row]
    assert np.mean(scores) >= 0.99


def test_prompt_with_other_points_than_its_texts_is_refused() -> None:
    prompt = bundled().prompts[0]
    other = prompt.model_copy(update={"points": prompt.points[:1]})
    with pytest.raises(ValueError, match=r"prompt 0, .* has the test points"):
        judge_points(draw([realize(parse(prompt.text), np.random.default_rng(0))]), [other])
