"""`python -m worker.entrypoints.export CHECKPOINT_DIR --form FORM --out DIR`: convert a checkpoint for other programs.

CHECKPOINT_DIR is a checkpoint directory or an unpacked archive. The form `lora` writes the adapter in diffusers format,
`transformer` the whole transformer, with a LoRA merged into the base weights in float32, and `merged` a whole pipeline
with this transformer.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any, get_args

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

from service.contracts.attempt_files import SPEC_FILE, CheckpointManifest
from service.contracts.catalog import ModelEntry, load_catalog
from service.contracts.model_card import CARD_FILE, HELDOUT_FILE, Form, card
from worker.engine.models import lora
from worker.engine.models.sources import fetch
from worker.engine.training.checkpoint import read_manifest

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def main(arguments: list[str] | None = None) -> int:
    """Export the checkpoint and return the exit code: 0 for success, 2 for invalid arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint directory or unpacked archive")
    parser.add_argument("--form", choices=get_args(Form), required=True)
    parser.add_argument("--out", type=Path, required=True, help="new directory")
    options = parser.parse_args(arguments)
    try:
        export(options.checkpoint, options.form, options.out)
    except (ValueError, KeyError, FileExistsError) as error:
        sys.stderr.write(f"{error.args[0] if isinstance(error, KeyError) else error}\n")
        return 2
    return 0


def export(checkpoint: Path, form: Form, out: Path) -> None:
    """Write the checkpoint to `out` in the given form, with its model card and spec.

    Raises ValueError if the checkpoint is invalid or does not support the form, KeyError if the catalog does not
    contain its model, and FileExistsError if `out` exists.
    """
    manifest = read_manifest(checkpoint)
    entry = load_catalog().model(manifest.model)
    if form == "lora" and manifest.kind != "lora":
        raise ValueError(f"{checkpoint} contains full weights, not a LoRA; use --form transformer")
    pipeline = None if form == "lora" else _pipeline(checkpoint, manifest, entry)
    out.mkdir(parents=True)
    if pipeline is None:
        shutil.copyfile(checkpoint / lora.WEIGHTS, out / lora.WEIGHTS)
    elif form == "merged":
        pipeline.save_pretrained(out)
    else:
        pipeline.transformer.save_pretrained(out / "transformer")
    (out / CARD_FILE).write_text(card(manifest, entry, form, _heldout(checkpoint)), encoding="utf-8")
    (out / SPEC_FILE).write_text(json.dumps(manifest.spec, indent=1, ensure_ascii=False), encoding="utf-8")


def _pipeline(checkpoint: Path, manifest: CheckpointManifest, entry: ModelEntry) -> Any:
    """Load the base pipeline with the checkpoint's transformer, in the dtype of the base transformer's files.

    Raises ValueError if the transformer does not fit the base model.
    """
    directory = fetch(entry.source, DiffusionPipeline)
    own = _dtype(directory)
    pipeline = DiffusionPipeline.from_pretrained(directory, dtype=own, use_safetensors=True)
    transformer = pipeline.transformer
    if manifest.lora_rank is None or manifest.lora_alpha is None:
        stored = type(transformer).from_pretrained(checkpoint / "transformer", dtype=torch.float32)
        if dict(stored.config).keys() != dict(transformer.config).keys() or _shapes(stored) != _shapes(transformer):
            raise ValueError(f"the checkpoint's transformer does not fit {entry.name!r}")
        pipeline.register_modules(transformer=stored.to(own))
        return pipeline
    transformer.float()
    lora.attach(transformer, entry.lora_targets, manifest.lora_rank, manifest.lora_alpha, seed=0)
    lora.load(transformer, checkpoint)
    lora.fold(transformer)
    transformer.to(own)
    return pipeline


def _shapes(transformer: Any) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in transformer.state_dict().items()}


def _dtype(directory: Path) -> torch.dtype:
    """Return the dtype of the transformer's files. Raises ValueError if there are none in safetensors format."""
    for path in sorted((directory / "transformer").glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                return _DTYPES[tensors.get_slice(name).get_dtype()]
    raise ValueError(f"{directory} has no transformer in safetensors format")


def _heldout(checkpoint: Path) -> dict[str, Any]:
    """Load the held-out results from an unpacked archive; empty for a checkpoint directory, which has none."""
    file = checkpoint / HELDOUT_FILE
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


if __name__ == "__main__":
    sys.exit(main())
