"""Exported checkpoints, opened as their model cards say, draw the images that the service draws from them."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from PIL import Image

from service.contracts.attempt_files import MANIFEST_FILE, CheckpointManifest
from service.contracts.catalog import load_catalog
from service.contracts.generations import GenerationSpec
from service.contracts.model_card import CARD_FILE, card
from tests.worker.engine.models import tiny
from worker.engine.grpo.noise import normal
from worker.engine.image_sampling import SamplingSettings, sample_images
from worker.engine.inference.generator import Generator
from worker.engine.models import load_model
from worker.engine.training.checkpoint import _describe
from worker.entrypoints import export

ROOT = Path(__file__).parents[3]
ENTRY = load_catalog().model("shapes-flux")
SPEC = GenerationSpec(prompts=("a small red circle above a large blue square on white",), seed=7)
"""What the card's own code draws."""


def checkpoint(directory: Path, kind: str) -> Path:
    """A checkpoint that changes the image."""
    model = load_model(ENTRY, torch.device("cpu"), torch.float32)
    values: dict[str, Any] = {"lora_rank": 4, "lora_alpha": 8.0} if kind == "lora" else {}
    parameters = model.train_lora(4, 8.0, seed=0) if kind == "lora" else model.train_all()
    for index, parameter in enumerate(parameters):
        parameter.data += (0.05 if kind == "lora" else 0.01) * normal(tuple(parameter.shape), 0, index)
    directory.mkdir()
    model.save_trained(directory)
    files = tuple(_describe(path, directory) for path in sorted(directory.rglob("*")) if path.is_file())
    manifest = CheckpointManifest(
        model=ENTRY.name, architecture=model.architecture(), kind=kind, step=3, spec=None, files=files, **values
    )
    (directory / MANIFEST_FILE).write_text(manifest.model_dump_json())
    return directory


def ours(directory: Path | None) -> np.ndarray:
    """The service's image."""
    (image,) = Generator("cpu").generate(SPEC, {"it": directory})
    return np.asarray(Image.open(io.BytesIO(image.png)), dtype=int)


def theirs(directory: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The image of the code on the model card, run in the directory."""
    (directory / "worker").symlink_to(ROOT / "worker")
    monkeypatch.chdir(directory)
    found = re.search(r"```python\n(.*?)```", (directory / CARD_FILE).read_text(), re.DOTALL)
    assert found is not None
    exec(found[1], {})
    return np.asarray(Image.open(directory / "image.png"), dtype=int)


@pytest.mark.parametrize(
    ("kind", "form"),
    [("lora", "lora"), ("lora", "transformer"), ("lora", "merged"), ("full", "transformer"), ("full", "merged")],
)
def test_plain_diffusers_generates_the_same_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, form: str
) -> None:
    made = checkpoint(tmp_path / "checkpoint", kind)

    assert export.main([str(made), "--form", form, "--out", str(tmp_path / "out")]) == 0

    image = ours(made)
    assert np.abs(image - theirs(tmp_path / "out", monkeypatch)).max() <= 1
    assert np.abs(image - ours(None)).max() > 10


def test_stable_diffusion_model_card_generates_the_same_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = tiny.make("sd3", tmp_path)
    manifest = CheckpointManifest(model=entry.name, architecture=None, kind="full", step=1, spec=None, files=())
    (tmp_path / CARD_FILE).write_text(
        card(manifest, entry, "merged", {})
        .replace(SPEC.prompts[0], tiny.PROMPTS[0])  # of which the small tokenizer knows the words
        .replace("torch.bfloat16", "torch.float32")
    )
    spec = SPEC.model_copy(update={"prompts": (tiny.PROMPTS[0],)})
    model = load_model(entry, torch.device("cpu"), torch.float32)
    (image,) = sample_images(model, spec.prompts, [spec.seed], SamplingSettings.of(spec, entry))
    own = (image.permute(1, 2, 0) * 255).round().int().numpy()
    assert np.abs(own - theirs(tmp_path, monkeypatch)).max() <= 1


def test_merged_transformer_equals_base_plus_update(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "checkpoint", "lora")
    export.export(made, "transformer", tmp_path / "out")
    merged = FluxTransformer2DModel.from_pretrained(tmp_path / "out", subfolder="transformer").state_dict()
    model: Any = load_model(ENTRY, torch.device("cpu"), torch.float32)
    base = {name: tensor.clone() for name, tensor in model.transformer.state_dict().items()}
    model.train_lora(4, 8.0, seed=0)
    model.load_trained(made)
    assert merged.keys() == base.keys()
    layer = model.transformer.transformer_blocks[0].attn.to_q
    update = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    name = "transformer_blocks.0.attn.to_q.weight"
    torch.testing.assert_close(merged[name], base[name] + update.detach(), rtol=0, atol=1e-6)
    assert torch.equal(merged["x_embedder.weight"], base["x_embedder.weight"])


def test_export_errors_state_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert export.main([str(tmp_path), "--form", "lora", "--out", out]) == 2
    assert "it has no manifest.json" in capsys.readouterr().err
    assert export.main([str(checkpoint(tmp_path / "full", "full")), "--form", "lora", "--out", out]) == 2
    assert "use --form transformer" in capsys.readouterr().err
    assert not Path(out).exists()
