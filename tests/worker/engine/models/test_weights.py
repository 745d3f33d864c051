"""Missing, damaged, foreign and pickled files are rejected by name before the device is used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.contracts.catalog import ModelEntry, Source
from tests.worker.engine.models.tiny import entry, make
from worker.engine.models import load_model
from worker.engine.models.sources import fetch, fingerprint
from worker.engine.models.weights import read_shapes

NOWHERE = torch.device("cuda")
"""An unusable device, because these tests expect errors before the device is used."""
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole") / "sd3"
    make("sd3", place)
    return place


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "sd3"))


def refused(described: ModelEntry) -> str:
    with pytest.raises(ValueError) as error:
        load_model(described, NOWHERE, torch.float32)
    return str(error.value)


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def shard(place: Path) -> Path:
    """Split the transformer's weights into two shards, as large models are published."""
    path = place / TRANSFORMER
    tensors = load_file(path)
    path.unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, path.with_name(file), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    path.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return path.with_name(file)


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_sharded_model_loads(place: Path) -> None:
    shard(place)
    load_model(entry("sd3", place), torch.device("cpu"), torch.float32)


def test_missing_shard_is_named(place: Path) -> None:
    missing = shard(place)
    missing.unlink()
    assert f"{missing} not found" in refused(entry("sd3", place))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_2", "text_encoder_3"])
def test_missing_weight_file_is_named(place: Path, part: str) -> None:
    next((place / part).glob("*.safetensors")).unlink()
    assert f"{place / part} has no weights" in refused(entry("sd3", place))


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_damaged_weight_file_is_named(place: Path, part: str) -> None:
    file = next((place / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} is incomplete or damaged" in refused(entry("sd3", place))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "weights.ckpt"])
def test_pickle_is_never_opened(place: Path, name: str) -> None:
    (place / TRANSFORMER).unlink()
    (place / "transformer" / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    said = refused(entry("sd3", place))
    assert f"contains only pickles ({name})" in said
    assert "convert them" in said


def test_another_architecture_is_refused(place: Path) -> None:
    said = refused(entry("flux-dev", place))
    assert "architecture 'StableDiffusion3Pipeline', expected 'FluxPipeline'" in said


def test_another_part_is_refused(place: Path) -> None:
    edit(place / "transformer" / "config.json", _class_name="FluxTransformer2DModel")
    assert "'FluxTransformer2DModel', expected 'SD3Transformer2DModel'" in refused(entry("sd3", place))


def test_unknown_class_is_rejected(place: Path) -> None:
    edit(place / "model_index.json", text_encoder=["os", "system"])
    assert "text_encoder is 'system', expected 'CLIPTextModelWithProjection'" in refused(entry("sd3", place))


@pytest.mark.parametrize("file", [TRANSFORMER, "vae/diffusion_pytorch_model.safetensors"])
def test_missing_unexpected_and_misshapen_tensors_are_named(place: Path, file: str) -> None:
    first, second = sorted(load_file(place / file))[:2]
    rewrite(place / file, lambda tensors: tensors.pop(first))
    assert f"1 missing: {first}" in refused(entry("sd3", place))
    rewrite(place / file, lambda tensors: tensors.update({first: torch.zeros(1), second: torch.zeros(2, 3, 5)}))
    rewrite(place / file, lambda tensors: tensors.update(stranger=torch.zeros(1)))
    said = refused(entry("sd3", place))
    assert "1 unexpected: stranger" in said
    assert f"{second} is [2, 3, 5], expected [" in said


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_3"])
def test_encoders_tensors_are_checked_as_well(place: Path, part: str) -> None:
    file = place / part / "model.safetensors"
    name = next(name for name in sorted(load_file(file)) if name.endswith("weight") and "norm" in name)
    rewrite(file, lambda tensors: tensors.pop(name))
    assert "1 missing" in refused(entry("sd3", place))
    rewrite(file, lambda tensors: tensors.update({name: torch.zeros(3)}))
    assert "is [3], expected [" in refused(entry("sd3", place))


def test_directory_without_a_pipeline_is_rejected(tmp_path: Path) -> None:
    assert "has no model_index.json" in refused(entry("sd3", tmp_path))
    (tmp_path / "model_index.json").write_text("{")
    assert "model_index.json cannot be read" in refused(entry("sd3", tmp_path))


def test_failed_model_download_error_suggests_a_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("TINY_TOKEN", raising=False)
    source = Source(hub="nobody/nothing", token_env="TINY_TOKEN")
    said = refused(entry("sd3", tmp_path).model_copy(update={"source": source}))
    assert "cannot download nobody/nothing" in said
    assert "environment variable TINY_TOKEN, which is not set" in said


def test_pipeline_is_told_apart_by_what_is_here_of_its_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The hub's client lists all files of a repository, including files that a pipeline does not need."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit, folder = "a" * 40, tmp_path / "models--nobody--flux"
    snapshot = folder / "snapshots" / commit
    (snapshot / "vae").mkdir(parents=True)
    (snapshot / "vae" / "config.json").write_text("{}")
    listed = {name: TreeCacheEntry(2, "b" * 40) for name in ("vae/config.json", "flux1.safetensors")}
    write_tree_cache(str(folder), commit, listed)
    source = Source(hub="nobody/flux", revision=commit)

    assert fingerprint(source) == fingerprint(Source(directory=snapshot))
    assert fingerprint(source, ["vae"]) == fingerprint(Source(directory=snapshot), ["vae"])


def test_error_without_a_message_suggests_a_fix(tmp_path: Path) -> None:
    class Silent:
        @staticmethod
        def download(*_: object, **__: object) -> str:
            raise ConnectionError

    with pytest.raises(ValueError, match=r"from the hub: ConnectionError\(\) Accept its license"):
        fetch(Source(hub="nobody/flux"), Silent)


def test_named_file_is_the_one_that_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "chosen.safetensors")
    assert read_shapes(tmp_path, "chosen.safetensors") == {"a": (2, 3)}
    with pytest.raises(ValueError, match=r"other\.safetensors not found"):
        read_shapes(tmp_path, "other.safetensors")
