"""`python -m worker.engine.rewards.convert KIND FILE --out DIR`: a published open_clip file as a transformers
directory.

An operator runs it once and then names the directory in the catalog; the scores are identical. The tensors keep their
precision, and an `open_clip_config.json` in the same directory is copied.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import save_file

from service.contracts.catalog import Source
from worker.engine.rewards.clip import ClipReward
from worker.engine.rewards.hps import HpsReward
from worker.engine.rewards.open_clip import CONFIG
from worker.engine.rewards.preprocessing import squashed

_KINDS: dict[str, type[ClipReward]] = {"clip": ClipReward, "hps": HpsReward}


def convert(kind: str, file: Path, out: Path) -> None:
    """Write `out`, a new directory. ValueError if the file is not of that kind."""
    reward = _KINDS[kind]
    if not file.is_file():
        raise ValueError(f"file {file} not found")
    if out.exists():
        raise ValueError(f"{out} exists; set --out to a new directory")
    description = file.with_name(CONFIG)
    config, tensors = reward.read_published(file, description if description.is_file() else None)
    source = Source(directory=file.parent, file=file.name)
    steps = reward.preprocessing(source)
    config.architectures = ["CLIPModel"]
    out.mkdir(parents=True)
    config.save_pretrained(out)
    side = config.vision_config.image_size
    square = {"height": side, "width": side}
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": list(steps.mean),
        "image_std": list(steps.std),
        "resample": 3,
        "size": square if steps.fit is squashed else {"shortest_edge": side},
        "crop_size": square,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    if description.is_file():
        shutil.copyfile(description, out / CONFIG)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def main(arguments: list[str] | None = None) -> int:
    """Convert and return the exit code: 2, with a message, for invalid arguments."""
    parser = argparse.ArgumentParser(prog="python -m worker.engine.rewards.convert", description=convert.__doc__)
    parser.add_argument("kind", choices=sorted(_KINDS), help="the reward's kind in the catalog")
    parser.add_argument("file", type=Path, help="the published weights")
    parser.add_argument("--out", type=Path, required=True, help="the directory to write")
    options = parser.parse_args(arguments)
    try:
        convert(options.kind, options.file, options.out)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
