"""Imported LoRA files have the same effect on every layer as in diffusers, which is the reference."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.api.checkpoints import kohya
from service.api.checkpoints.imports import read_adapter, read_layers
from service.api.checkpoints.lora_file import TensorFile
from tests.worker.engine.models import tiny
from worker.engine.grpo.noise import normal
from worker.engine.models.lora import WEIGHTS, layers

Q = "single_transformer_blocks.0.attn.to_q"
"""A layer whose name ends like that of a joint block's layer."""
JOINT = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
NAMES = [*(f"transformer_blocks.0.attn.{name}" for name in JOINT), Q, "single_transformer_blocks.0.proj_out"]


@pytest.fixture(scope="module")
def transformer() -> Any:
    return tiny.flux(guidance=False).transformer


@pytest.fixture(scope="module")
def entry() -> Any:
    return tiny.entry("flux-schnell", Path("unused"))


def written(transformer: Any, file: Path, ranks: dict[str, int], **config: Any) -> Path:
    """A LoRA in diffusers format."""
    tensors = {}
    for index, name in enumerate(NAMES):
        rows, columns = transformer.get_submodule(name).weight.shape
        rank = ranks.get(name, 4)
        tensors[f"transformer.{name}.lora_A.weight"] = normal((rank, columns), 0, index)
        tensors[f"transformer.{name}.lora_B.weight"] = normal((rows, rank), 1, index)
    said = {f"transformer.{name}": value for name, value in {"target_modules": NAMES, **config}.items()}
    save_file(tensors, file, {"lora_adapter_metadata": json.dumps(said)})
    return file


def updates(transformer: Any, state: Any, **options: Any) -> dict[str, Tensor]:
    """The change of every layer's weights in diffusers."""
    transformer.load_lora_adapter(state, prefix="transformer", adapter_name="x", **options)
    try:
        named = {id(module): name for name, module in transformer.named_modules()}
        return {named[id(layer)]: layer.get_delta_weight("x").detach() for layer in layers(transformer)}
    finally:
        transformer.unload_lora()


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        torch.testing.assert_close(found[name], update, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "ranks"),
    [
        ({"r": 4, "lora_alpha": 8}, {}),
        ({"r": 4, "lora_alpha": 8192}, {}),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, {}),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {Q: 64}}, {}),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {f"^{Q}": 64, "attn.to_q": 2}}, {}),
        ({"r": 4, "lora_alpha": 8, "rank_pattern": {Q: 2}, "alpha_pattern": {"proj_out": 1}}, {Q: 2}),
        ({"r": 4, "lora_alpha": 8, "rank_pattern": {Q: 9}, "use_rslora": True}, {Q: 9}),
    ],
)
def test_a_file_with_metadata_of_peft(
    transformer: Any, entry: Any, tmp_path: Path, config: dict[str, Any], ranks: dict[str, int]
) -> None:
    file = written(transformer, tmp_path / "sent.safetensors", ranks, **config)
    adapter = read_adapter(file, entry)
    stored = tmp_path / WEIGHTS
    stored.write_bytes(b"".join(adapter.converted.blocks) if adapter.converted else file.read_bytes())
    expected = updates(transformer, str(tmp_path), weight_name=file.name)
    same(updates(transformer, str(tmp_path), weight_name=WEIGHTS), expected)
    # The worker uses the manifest's rank and α instead of the metadata.
    tensors = load_file(stored)
    scale = adapter.alpha / adapter.rank
    for name, update in expected.items():
        down, up = tensors[f"transformer.{name}.lora_A.weight"], tensors[f"transformer.{name}.lora_B.weight"]
        torch.testing.assert_close(scale * up @ down, update, rtol=1e-5, atol=1e-5)


def test_a_file_in_kohyas_format(transformer: Any, tmp_path: Path) -> None:
    """diffusers converts the format itself; for single blocks only with the width of FLUX.1."""
    file = written(transformer, tmp_path / "sent.safetensors", {}, r=4, lora_alpha=16)
    found = {name: layer for name, layer in read_layers(TensorFile(file)).items() if name != Q}
    (tmp_path / "kohya.safetensors").write_bytes(b"".join(kohya.content("flux", found, 16.0).blocks))
    state = FluxPipeline.lora_state_dict(load_file(tmp_path / "kohya.safetensors"))
    expected = updates(transformer, str(tmp_path), weight_name=file.name)
    same(updates(transformer, state), {name: update for name, update in expected.items() if name != Q})
