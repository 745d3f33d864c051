"""The judge on images of the base model for the benchmark's prompts, compared with hand labels."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from service.contracts.benchmarks.bundled import bundled
from service.contracts.benchmarks.dimensions import PRIMARY
from worker.shapes import IMAGE_SIZE
from worker.shapes.bench import judge_points

FOLDER = Path(__file__).parents[4] / "benchmarks" / "shapes_bench_hand_labels"
LABELS = json.loads((FOLDER / "labels.json").read_text())["images"]
PROMPTS = {prompt.text: prompt for prompt in bundled().prompts}


@pytest.fixture(scope="module")
def images() -> Tensor:
    sheet = np.array(Image.open(FOLDER / "images.png"))
    rows = sheet.reshape(-1, IMAGE_SIZE, sheet.shape[1] // IMAGE_SIZE, IMAGE_SIZE, 3)
    return torch.from_numpy(rows.transpose(0, 2, 4, 1, 3).reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE))[: len(LABELS)] / 255


def test_every_dimension_has_labels_of_the_benchmarks_own_prompts() -> None:
    counted = Counter(PROMPTS[label["prompt"]].points[label["point"]].primary for label in LABELS)
    assert set(counted) == set(PRIMARY) and min(counted.values()) >= 20
    assert len(LABELS) >= 200


def test_judge_agrees_with_hand_labels(images: Tensor) -> None:
    said = judge_points(images, [PROMPTS[label["prompt"]] for label in LABELS])
    agreed = [bool(scores[label["point"]]) == label["holds"] for scores, label in zip(said, LABELS, strict=True)]
    assert np.mean(agreed) >= 0.75
