"""The published ImageReward computation, and random tensors in its file layout."""

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, embedding, gelu, layer_norm, linear

from worker.engine.rewards.blip import BlipSizes

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


WORDS = [*SPECIAL, "a", "red", "blue", "square", "##s", "circle", "and", "of", ","]


TINY = BlipSizes(
    image=32,
    patch=8,
    vision_width=24,
    vision_layers=3,
    vision_heads=4,
    text_width=16,
    text_layers=2,
    text_heads=2,
    vocabulary=len(WORDS) + 2,
    positions=40,
    head=(12, 10, 8, 6, 1),
)


def published_shapes(sizes: BlipSizes) -> dict[str, tuple[int, ...]]:
    """The shapes of the published file's tensors, derived from its architecture."""
    vision, text, joint = sizes.vision_width, sizes.text_width, 256
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, vision),
        "blip.visual_encoder.pos_embed": (1, (sizes.image // sizes.patch) ** 2 + 1, vision),
        "blip.visual_encoder.patch_embed.proj.weight": (vision, 3, sizes.patch, sizes.patch),
        "blip.visual_encoder.patch_embed.proj.bias": (vision,),
        "blip.text_encoder.embeddings.position_ids": (1, sizes.positions),
        "blip.text_encoder.embeddings.word_embeddings.weight": (sizes.vocabulary, text),
        "blip.text_encoder.embeddings.position_embeddings.weight": (sizes.positions, text),
    }

    def add(name: str, outputs: int, inputs: int | None = None) -> None:
        shapes[f"{name}.weight"] = (outputs,) if inputs is None else (outputs, inputs)
        shapes[f"{name}.bias"] = (outputs,)

    add("blip.visual_encoder.norm", vision)
    for layer in range(sizes.vision_layers):
        block = f"blip.visual_encoder.blocks.{layer}"
        add(f"{block}.norm1", vision)
        add(f"{block}.attn.qkv", 3 * vision, vision)
        add(f"{block}.attn.proj", vision, vision)
        add(f"{block}.norm2", vision)
        add(f"{block}.mlp.fc1", 4 * vision, vision)
        add(f"{block}.mlp.fc2", vision, 4 * vision)
    add("blip.text_encoder.embeddings.LayerNorm", text)
    for layer in range(sizes.text_layers):
        block = f"blip.text_encoder.encoder.layer.{layer}"
        for attention, seen in (("attention", text), ("crossattention", vision)):
            add(f"{block}.{attention}.self.query", text, text)
            add(f"{block}.{attention}.self.key", text, seen)
            add(f"{block}.{attention}.self.value", text, seen)
            add(f"{block}.{attention}.output.dense", text, text)
            add(f"{block}.{attention}.output.LayerNorm", text)
        add(f"{block}.intermediate.dense", 4 * text, text)
        add(f"{block}.output.dense", text, 4 * text)
        add(f"{block}.output.LayerNorm", text)
    add("blip.vision_proj", joint, vision)
    add("blip.text_proj", joint, text)
    widths = (text, *sizes.head)
    for place, inputs, outputs in zip((0, 2, 4, 6, 7), widths[:-1], widths[1:], strict=True):
        add(f"mlp.layers.{place}", outputs, inputs)
    return shapes


_EMBEDDINGS = ("word_embeddings", "position_embeddings", "cls_token", "pos_embed", "patch_embed")


def published_tensors(sizes: BlipSizes, seed: int = 1) -> dict[str, Tensor]:
    """Random tensors. Embeddings are small, so that the ε of the following layer norms affects the value."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if name.endswith("position_ids"):
            return torch.arange(shape[-1])[None]
        if any(part in name for part in _EMBEDDINGS):
            return noise / 1000
        return 1 + noise / 10 if "orm" in name and name.endswith("weight") else noise * 0.4

    return {name: drawn(name, shape) for name, shape in published_shapes(sizes).items()}


class Original:
    """The published computation, transcribed from its architecture: timm's ViT, BERT with cross attention, the MLP."""

    def __init__(self, tensors: Mapping[str, Tensor], sizes: BlipSizes) -> None:
        self.tensors, self.sizes = tensors, sizes

    def __call__(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        state = self.read(tokens, mask, self.see(pixels))[:, 0]
        for place in (0, 2, 4, 6, 7):
            state = self.dense(f"mlp.layers.{place}", state)
        return (state[:, 0] - 0.16717362830052426) / 1.0333394966054072

    def see(self, pixels: Tensor) -> Tensor:
        """Image features [n, patches + 1, width]; layer norms precede the layers (pre-norm)."""
        root, tensors = "blip.visual_encoder", self.tensors
        kernel, bias = (tensors[f"{root}.patch_embed.proj.{kind}"] for kind in ("weight", "bias"))
        patches = conv2d(pixels, kernel, bias, stride=self.sizes.patch).flatten(2).mT
        first = tensors[f"{root}.cls_token"].expand(len(pixels), -1, -1)
        state = torch.cat([first, patches], dim=1) + tensors[f"{root}.pos_embed"]
        for layer in range(self.sizes.vision_layers):
            block = f"{root}.blocks.{layer}"
            query, key, value = self.dense(f"{block}.attn.qkv", self.norm(f"{block}.norm1", state, 1e-6)).chunk(3, -1)
            attended = attention(query, key, value, self.sizes.vision_heads)
            state = state + self.dense(f"{block}.attn.proj", attended)
            inner = gelu(self.dense(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", state, 1e-6)))
            state = state + self.dense(f"{block}.mlp.fc2", inner)
        return self.norm(f"{root}.norm", state, 1e-6)

    def read(self, tokens: Tensor, mask: Tensor, patches: Tensor) -> Tensor:
        """Text features [n, length, width] of a non-causal BERT with post-norm layers and no mask over the patches."""
        root, tensors = "blip.text_encoder", self.tensors
        words = embedding(tokens, tensors[f"{root}.embeddings.word_embeddings.weight"])
        places = tensors[f"{root}.embeddings.position_embeddings.weight"][: tokens.shape[1]]
        state = self.norm(f"{root}.embeddings.LayerNorm", words + places, 1e-12)
        padding = (1 - mask[:, None, None, :].float()) * -10_000
        for layer in range(self.sizes.text_layers):
            block = f"{root}.encoder.layer.{layer}"
            state = self.attend(f"{block}.attention", state, state, padding)
            state = self.attend(f"{block}.crossattention", state, patches)
            inner = gelu(self.dense(f"{block}.intermediate.dense", state))
            state = self.norm(f"{block}.output.LayerNorm", state + self.dense(f"{block}.output.dense", inner), 1e-12)
        return state

    def attend(self, name: str, state: Tensor, seen: Tensor, bias: Tensor | None = None) -> Tensor:
        query = self.dense(f"{name}.self.query", state)
        key, value = self.dense(f"{name}.self.key", seen), self.dense(f"{name}.self.value", seen)
        attended = self.dense(f"{name}.output.dense", attention(query, key, value, self.sizes.text_heads, bias))
        return self.norm(f"{name}.output.LayerNorm", state + attended, 1e-12)

    def dense(self, name: str, state: Tensor) -> Tensor:
        return linear(state, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def norm(self, name: str, state: Tensor, eps: float) -> Tensor:
        return layer_norm(
            state, state.shape[-1:], self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], eps=eps
        )


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    scores = query @ key.mT / query.shape[-1] ** 0.5
    weights = (scores if bias is None else scores + bias).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def transformed(image: Tensor, size: int) -> Tensor:
    """The published transform of one image in Pillow: resize the shorter side, crop the center, scale to 0..1."""
    image = Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    shorter = min(image.size)
    image = image.resize([int(size * side / shorter) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2.0) for side in image.size)
    cropped = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32)
    return torch.from_numpy(cropped / 255).permute(2, 0, 1)


def normalized(images: Tensor) -> Tensor:
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    return (images - mean[:, None, None]) / std[:, None, None]
