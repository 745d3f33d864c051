"""`python -m tests.faults.draw < JSON`: generations' images and their rewards, by this process alone."""

import hashlib
import json
import sys
from pathlib import Path

from service.contracts.generations import GenerationSpec
from worker.engine.inference.generator import Generator
from worker.engine.inference.image_scorer import Scorer

_BATCH = 64
"""Images scored at once, as by a worker."""


def main() -> None:
    """Each drawing has a resolved `spec`, and `checkpoints`: pairs of name and directory, null for the base model."""
    generator, scorer = Generator("cpu"), Scorer("cpu")
    asked = json.load(sys.stdin)
    drawn = []
    for one in asked["drawings"]:
        spec = GenerationSpec.model_validate(one["spec"])
        checkpoints = {name: Path(place) if place else None for name, place in one["checkpoints"]}
        images = list(generator.generate(spec, checkpoints))
        values = []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            prompts = [spec.prompts[image.prompt_index] for image in part]
            scored = scorer.score(asked["rewards"], [image.png for image in part], prompts)
            values += [[value.value for value in of_image] for of_image in scored]
        drawn.append([[hashlib.sha256(image.png).hexdigest() for image in images], values])
    sys.stdout.write(json.dumps(drawn))


if __name__ == "__main__":
    main()
