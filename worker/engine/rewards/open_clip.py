"""Conversion of CLIP weights from the open_clip layout to transformers' `CLIPModel`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from worker.engine.models.weights import check_faults

CONFIG = "open_clip_config.json"
"""Name of the configuration file that open_clip publishes with weights: sizes, activation and preprocessing."""

_SIXTEEN_HEADS = (1280, 1408, 1664)
"""Widths of open_clip's ViT-H, g and bigG, which have 16 heads. Other models have heads of width 64."""

_BLOCK = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


_TRANSPOSED = ("text_projection", "visual.proj")
_SINGLE = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "logit_scale": "logit_scale",
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}
_NORMS = {
    "ln_final": "text_model.final_layer_norm",
    "visual.ln_pre": "vision_model.pre_layrnorm",  # transformers' spelling
    "visual.ln_post": "vision_model.post_layernorm",
}


def layout(text_layers: int, vision_layers: int) -> dict[str, tuple[str, ...]]:
    """Map each published tensor name to transformers names.

    A tensor with several targets is split into equal parts along its first dimension.
    """
    modules = dict(_NORMS)
    targets: dict[str, tuple[str, ...]] = {name: (target,) for name, target in _SINGLE.items()}
    for tower, model, layers in (("", "text_model", text_layers), ("visual.", "vision_model", vision_layers)):
        for layer in range(layers):
            block, target = f"{tower}transformer.resblocks.{layer}", f"{model}.encoder.layers.{layer}"
            modules |= {f"{block}.{ours}": f"{target}.{theirs}" for ours, theirs in _BLOCK.items()}
            for kind in ("weight", "bias"):
                parts = tuple(f"{target}.self_attn.{part}_proj.{kind}" for part in "qkv")
                targets[f"{block}.attn.in_proj_{kind}"] = parts
    for kind in ("weight", "bias"):
        targets |= {f"{name}.{kind}": (f"{target}.{kind}",) for name, target in modules.items()}
    return targets


def read_config(path: Path) -> dict[str, Any]:
    """Read open_clip's configuration file of a model. Raises ValueError if it is invalid."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["model_cfg"]["vision_cfg"], content["model_cfg"]["text_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is invalid: it needs `model_cfg` with `vision_cfg` and `text_cfg`") from error
    return dict(content)


def architecture(tensors: Mapping[str, Tensor], description: Mapping[str, Any] | None) -> CLIPConfig:
    """Derive the architecture from the tensor shapes and open_clip's configuration.

    The configuration `description` provides the activation and the number of heads. If it is None, the activation is
    GELU and the number of heads is the one of open_clip's models of the same width. Raises ValueError if tensors are
    missing or `description` contradicts the shapes.
    """
    sizes = _sizes(tensors)
    model = description["model_cfg"] if description else {}
    vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
    if description:
        _refuse_another(sizes, {"": model, "vision_cfg.": vision, "text_cfg.": text})
    width, text_width = sizes["vision_cfg.width"], sizes["text_cfg.width"]
    default_heads = 16 if width in _SIXTEEN_HEADS else max(width // 64, 1)
    heads = width // vision.get("head_width", 64) if description else default_heads
    activation = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
    vocabulary = sizes["text_cfg.vocab_size"]
    return CLIPConfig(
        projection_dim=sizes["embed_dim"],
        text_config={
            "hidden_size": text_width,
            "intermediate_size": tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": sizes["text_cfg.layers"],
            "num_attention_heads": text.get("heads", 8) if description else max(text_width // 64, 1),
            "max_position_embeddings": sizes["text_cfg.context_length"],
            "vocab_size": vocabulary,
            "hidden_act": activation,
            "projection_dim": sizes["embed_dim"],
            # open_clip pools at the first position of the largest token id, which is the end token
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": width,
            "intermediate_size": tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": sizes["vision_cfg.layers"],
            "num_attention_heads": heads,
            "image_size": sizes["vision_cfg.image_size"],
            "patch_size": sizes["vision_cfg.patch_size"],
            "hidden_act": activation,
            "projection_dim": sizes["embed_dim"],
        },
    )


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Derive the sizes from the tensor shapes, by their names in open_clip's configuration.

    Raises ValueError if tensors are missing.
    """
    check_faults("an open_clip file", {"missing": sorted(layout(1, 1).keys() - tensors.keys())})
    patch = tensors["visual.conv1.weight"].shape[-1]
    side = round((tensors["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    return {
        "embed_dim": tensors["text_projection"].shape[-1],
        "vision_cfg.width": tensors["visual.conv1.weight"].shape[0],
        "vision_cfg.layers": _layers(tensors, "visual.transformer.resblocks."),
        "vision_cfg.patch_size": patch,
        "vision_cfg.image_size": side * patch,
        "text_cfg.width": tensors["token_embedding.weight"].shape[1],
        "text_cfg.layers": _layers(tensors, "transformer.resblocks."),
        "text_cfg.vocab_size": tensors["token_embedding.weight"].shape[0],
        "text_cfg.context_length": tensors["positional_embedding"].shape[0],
    }


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})


def _refuse_another(sizes: Mapping[str, int], described: Mapping[str, Mapping[str, Any]]) -> None:
    for name, size in sizes.items():
        prefix, _, key = name.rpartition(".")
        stated = described[f"{prefix}." if prefix else ""].get(key, size)
        if stated != size:
            raise ValueError(f"{CONFIG} has {name} {stated}; the tensors' shapes require {size}")


def to_transformers(tensors: Mapping[str, Tensor], config: CLIPConfig) -> dict[str, Tensor]:
    """Return the tensors by transformers name. Raises ValueError for missing, unexpected or misshapen tensors."""
    targets = layout(config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers)
    faults = {"missing": targets.keys() - tensors.keys(), "unexpected": tensors.keys() - targets.keys()}
    check_faults("an open_clip file", {fault: sorted(names) for fault, names in faults.items()})
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in CLIPModel(config).state_dict().items()}
    converted = {}
    for name, parts in targets.items():
        whole = tensors[name].mT if name in _TRANSPOSED else tensors[name]
        for target, part in zip(parts, whole.chunk(len(parts)) if len(parts) > 1 else (whole,), strict=False):
            if part.shape != shapes[target]:
                raise ValueError(f"tensor {name} is {tuple(tensors[name].shape)}, which does not fit the others")
            converted[target] = part.contiguous()
    return converted
