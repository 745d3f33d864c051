"""LoRA on a diffusers transformer: attach, merge for sampling, save and load."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn

ADAPTER = "default"
WEIGHTS = "pytorch_lora_weights.safetensors"


def attach(transformer: Any, targets: tuple[str, ...], rank: int, alpha: float, seed: int) -> list[nn.Parameter]:
    """Freeze `transformer` and add a LoRA in float32; the draw of its weights leaves the global generator as it was."""
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights="gaussian")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(config, adapter_name=ADAPTER)
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for parameter in parameters:
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    return parameters


def layers(transformer: Any) -> list[LoraLayer]:
    """The LoRA layers of `transformer`."""
    return [module for module in transformer.modules() if isinstance(module, LoraLayer)]


class Merger:
    """Sampling with merged weights, always built from the pristine base: merging in place in bfloat16 would drift."""

    def __init__(self, transformer: Any) -> None:
        self._transformer = transformer
        self._layers = layers(transformer)
        self._pristine: list[Tensor] = []

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Within: base + scale·B·A in each layer, the adapter off. Afterwards: the pristine base, the adapter on."""
        if not self._pristine:  # who never merges needs no copy
            self._pristine = [layer.get_base_layer().weight.detach().clone() for layer in self._layers]
        try:
            self._merge()
            self._transformer.disable_adapters()
            yield
        finally:
            with torch.no_grad():
                for layer, pristine in zip(self._layers, self._pristine, strict=True):
                    layer.get_base_layer().weight.copy_(pristine)
            self._transformer.enable_adapters()

    def _merge(self) -> None:
        with torch.no_grad():
            for layer, pristine in zip(self._layers, self._pristine, strict=True):
                low, high = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
                update = (high @ low) * layer.scaling[ADAPTER]
                layer.get_base_layer().weight.copy_(pristine.to(update.dtype) + update)


def fold(transformer: Any) -> None:
    """Put base + scale·B·A in each layer for good, and take the adapter off. Computed in float32 or the base's own."""
    with torch.no_grad():
        for layer in layers(transformer):
            base = layer.get_base_layer().weight
            update = (layer.lora_B[ADAPTER].weight @ layer.lora_A[ADAPTER].weight) * layer.scaling[ADAPTER]
            base.copy_(base.to(update.dtype) + update)
    transformer.unload_lora()


def state(transformer: Any) -> dict[str, Tensor]:
    """The adapter's weights by peft's names."""
    weights: dict[str, Tensor] = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
    return weights


def metadata(transformer: Any) -> dict[str, Any]:
    """The adapter's configuration, without which readers take α for r. Sets are sorted: their order varies."""
    config: dict[str, Any] = transformer.peft_config[ADAPTER].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


def load(transformer: Any, directory: Path) -> None:
    """Load a saved LoRA into the attached adapter; ValueError where a tensor is unknown, misshapen, or lacks its pair.

    A layer that the file leaves out, as one from outside may, keeps its fresh adapter, whose output is zero.
    """
    path = directory / WEIGHTS
    saved = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    expected = state(transformer)
    present = {_layer(name) for name in saved}
    missing = {name for name in expected.keys() - saved.keys() if _layer(name) in present}
    extra = saved.keys() - expected.keys()
    wrong = [name for name in expected.keys() & saved.keys() if expected[name].shape != saved[name].shape]
    if missing or extra or wrong or not saved:
        raise ValueError(
            f"{path.name} does not fit the model's LoRA: {len(missing)} tensors missing, {len(extra)} unexpected, "
            f"{len(wrong)} of another shape, such as {next(iter([*wrong, *missing, *extra]), 'all')}"
        )
    set_peft_model_state_dict(transformer, saved, adapter_name=ADAPTER)


def _layer(name: str) -> str:
    """The layer of a tensor by peft's name, such as `blocks.0.attn.to_q.lora_A.weight`."""
    return name.rpartition(".lora_")[0]
