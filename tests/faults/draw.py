"""`python -m tests.faults.draw < JSON`: the SHA-256 of the pictures of generations, drawn in this process alone."""

import hashlib
import json
import sys
from pathlib import Path

from service.contracts.generations import GenerationSpec
from worker.inference import Generator


def main() -> None:
    """Each has a resolved `spec`, and `checkpoints`: pairs of name and directory, null for the base model."""
    generator = Generator("cpu")
    drawn = []
    for asked in json.load(sys.stdin):
        checkpoints = {name: Path(place) if place else None for name, place in asked["checkpoints"]}
        images = generator.generate(GenerationSpec.model_validate(asked["spec"]), checkpoints)
        drawn.append([hashlib.sha256(image.png).hexdigest() for image in images])
    sys.stdout.write(json.dumps(drawn))


if __name__ == "__main__":
    main()
