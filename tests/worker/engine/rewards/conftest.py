"""Golden results of the original packages, and small models written in the published layouts."""

import gzip
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

Golden = dict[str, Any]

_PRINTED = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]


@pytest.fixture(scope="session")
def golden(shared: Path) -> Golden:
    """The golden record: `prompts`, `images` (names), `config` of the models, and computed values."""
    directory = shared / "golden" / "clip"
    meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    return {**meta, **load_file(directory / "expected.safetensors"), "directory": directory}


def load_image(path: Path) -> Tensor:
    """An image [1, 3, height, width] in 0..1, the input of a reward."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def description(golden: Golden, quick_gelu: bool) -> dict[str, Any]:
    preprocessing = {"mean": golden["mean"], "std": golden["std"], "interpolation": "bicubic", "resize_mode": "squash"}
    return {"model_cfg": {**golden["config"], "quick_gelu": quick_gelu}, "preprocess_cfg": preprocessing}


@pytest.fixture(scope="session")
def published(golden: Golden, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hps/` and `dfn/`: weights under their published names, open_clip's description and a tokenizer."""
    root = tmp_path_factory.mktemp("published")
    for name, source, target in (
        ("hps", "hps.pt", "HPS_v2.1_compressed.pt"),
        ("dfn", "dfn.safetensors", "open_clip_model.safetensors"),
    ):
        shutil.copytree(vocabulary, root / name)
        shutil.copyfile(golden["directory"] / source, root / name / target)
        (root / name / "open_clip_config.json").write_text(json.dumps(description(golden, name == "dfn")))
    return root


def _letters() -> list[str]:
    """The characters that stand for the 256 bytes in CLIP's vocabulary, in its order."""
    others = [chr(256 + index) for index in range(256 - len(_PRINTED))]
    return [chr(code) for code in _PRINTED] + others


def _write_vocabulary(directory: Path, merges: list[str]) -> Path:
    letters = _letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    tokens += [f"unused-{index}" for index in range(49_406 - len(tokens))] + ["<|startoftext|>", "<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return directory


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer directory with CLIP's layout and size, which encodes texts byte by byte."""
    return _write_vocabulary(tmp_path_factory.mktemp("vocabulary"), [])


@pytest.fixture(scope="session")
def clip_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's tokenizer, built from the vocabulary file in the wheel `open_clip_torch`, which is not imported."""
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs CLIP's vocabulary: pip install --no-deps -r tests/requirements-vocabulary.txt")
    packed = Path(spec.submodule_search_locations[0], "bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(packed.read_bytes()).decode().split("\n")
    return _write_vocabulary(tmp_path_factory.mktemp("clip_vocabulary"), lines[1 : 49_152 - 256 - 2 + 1])
