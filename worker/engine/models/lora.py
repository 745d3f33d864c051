"""LoRA adapters for diffusers transformers: attach, merge for sampling, save and load."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn

from worker.engine.models.weights import check_shapes

ADAPTER = "default"
WEIGHTS = "pytorch_lora_weights.safetensors"


def attach(transformer: Any, targets: tuple[str, ...], rank: int, alpha: float, seed: int) -> list[nn.Parameter]:
    """Freeze `transformer`, add a LoRA in at least float32, and return the LoRA's parameters.

    The initialization uses `seed` and does not affect the global random number generator.
    """
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
    """Return the LoRA layers of `transformer`."""
    return [module for module in transformer.modules() if isinstance(module, LoraLayer)]


class Merger:
    """Merges a LoRA into the base weights for sampling.

    The merged weights are computed from a copy of the base, because repeated in-place merging in bfloat16 would drift.
    """

    def __init__(self, transformer: Any) -> None:
        self._transformer = transformer
        self._layers = layers(transformer)
        self._base: list[Tensor] = []

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Replace each layer's weight by base + scale·B·A and disable the adapter within the context.

        Afterwards the base weights are restored exactly and the adapter is enabled again.
        """
        if not self._base:  # copied at the first merge
            self._base = [layer.get_base_layer().weight.detach().clone() for layer in self._layers]
        try:
            _merge(self._layers, self._base)
            self._transformer.disable_adapters()
            yield
        finally:
            with torch.no_grad():
                for layer, base in zip(self._layers, self._base, strict=True):
                    layer.get_base_layer().weight.copy_(base)
            self._transformer.enable_adapters()


def fold(transformer: Any) -> None:
    """Merge the adapter into the base permanently and remove it. The sum is computed in the adapter's dtype."""
    found = layers(transformer)
    _merge(found, [layer.get_base_layer().weight for layer in found])
    transformer.unload_lora()


@torch.no_grad()
def _merge(found: Sequence[LoraLayer], bases: Sequence[Tensor]) -> None:
    for layer, base in zip(found, bases, strict=True):
        update = (layer.lora_B[ADAPTER].weight @ layer.lora_A[ADAPTER].weight) * layer.scaling[ADAPTER]
        layer.get_base_layer().weight.copy_(base.to(update.dtype) + update)


def state(transformer: Any) -> dict[str, Tensor]:
    """Return the adapter's weights by PEFT parameter name."""
    weights: dict[str, Tensor] = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
    return weights


def metadata(transformer: Any) -> dict[str, Any]:
    """Return the adapter's configuration for the metadata of the weight file.

    Without it, loaders assume α = r. Sets become sorted lists, because set order varies.
    """
    config: dict[str, Any] = transformer.peft_config[ADAPTER].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


def load(transformer: Any, directory: Path) -> None:
    """Load a saved LoRA into the attached adapter.

    Files from other tools may omit layers; these keep their newly initialized adapter, whose output is zero. Raises
    ValueError if a tensor is unknown, has the wrong shape or a non-finite value, or lacks its A or B counterpart.
    """
    saved = {name.removeprefix("transformer."): tensor for name, tensor in load_file(directory / WEIGHTS).items()}
    present = {_layer(name) for name in saved}
    # If the file is empty, report all tensors as missing.
    expected = {name: value.shape for name, value in state(transformer).items() if not saved or _layer(name) in present}
    check_shapes(WEIGHTS, {name: tensor.shape for name, tensor in saved.items()}, expected)
    if nonfinite := [name for name, tensor in saved.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{WEIGHTS}: {nonfinite[0]} has NaN or infinite values")
    set_peft_model_state_dict(transformer, saved, adapter_name=ADAPTER)


def _layer(name: str) -> str:
    """Return the layer name in a PEFT parameter name such as `blocks.0.attn.to_q.lora_A.weight`."""
    return name.rpartition(".lora_")[0]
