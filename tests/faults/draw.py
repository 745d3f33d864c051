"""`python -m tests.faults.draw < JSON`: images of generations and their rewards, computed in this process."""

import hashlib
import json
import sys
from pathlib import Path

from service.contracts.generations import GenerationSpec
from worker.engine.inference.generator import Generator
from worker.engine.inference.image_scorer import ImageScorer

_BATCH = 64
"""Number of images scored together, equal to that of a worker."""


def main() -> None:
    """Items of `drawings` have a resolved `spec` and `checkpoints`: pairs of name and directory, null for the base."""
    generator, scorer = Generator("cpu"), ImageScorer("cpu")
    request = json.load(sys.stdin)
    results = []
    for one in request["drawings"]:
        spec = GenerationSpec.model_validate(one["spec"])
        checkpoints = {name: Path(place) if place else None for name, place in one["checkpoints"]}
        images = list(generator.generate(spec, checkpoints))
        values = []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            prompts = [spec.prompts[image.prompt_index] for image in part]
            scored = scorer.score(request["rewards"], [image.png for image in part], prompts)
            values += [[value.value for value in of_image] for of_image in scored]
        results.append([[hashlib.sha256(image.png).hexdigest() for image in images], values])
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
