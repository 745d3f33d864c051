"""`python -m tests.faults.draw JSON`: the SHA-256 of the pictures of a generation, drawn in this process alone."""

import hashlib
import json
import sys
from pathlib import Path

from service.contracts.generations import GenerationSpec
from worker.inference import Generator


def main() -> None:
    """`JSON` has the resolved `spec`, and `checkpoints`: pairs of name and directory, null for the base model."""
    asked = json.loads(sys.argv[1])
    checkpoints = {name: Path(place) if place else None for name, place in asked["checkpoints"]}
    images = Generator("cpu").generate(GenerationSpec.model_validate(asked["spec"]), checkpoints)
    sys.stdout.write(json.dumps([hashlib.sha256(image.png).hexdigest() for image in images]))


if __name__ == "__main__":
    main()
