"""BLIP with a scoring head, built from the BLIP classes of transformers and loaded with ImageReward's tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from worker.engine.models.weights import check_shapes


@dataclass(frozen=True)
class BlipSizes:
    """Widths and depths. The defaults are those of ImageReward-v1.0: ViT-L/16 and BERT-base with two extra tokens."""

    image: int = 224
    patch: int = 16
    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    vocabulary: int = 30_524
    positions: int = 512
    head: tuple[int, ...] = (1024, 128, 64, 16, 1)


class BlipScorer(nn.Module):
    """A text encoder with cross-attention to image patches. A head maps its first output token to one number."""

    def __init__(self, sizes: BlipSizes) -> None:
        super().__init__()
        self.vision = BlipVisionModel(
            BlipVisionConfig(
                image_size=sizes.image,
                patch_size=sizes.patch,
                hidden_size=sizes.vision_width,
                intermediate_size=4 * sizes.vision_width,
                num_hidden_layers=sizes.vision_layers,
                num_attention_heads=sizes.vision_heads,
                layer_norm_eps=1e-6,
            )
        )
        self.text = BlipTextModel(
            BlipTextConfig(
                vocab_size=sizes.vocabulary,
                hidden_size=sizes.text_width,
                encoder_hidden_size=sizes.vision_width,
                intermediate_size=4 * sizes.text_width,
                num_hidden_layers=sizes.text_layers,
                num_attention_heads=sizes.text_heads,
                max_position_embeddings=sizes.positions,
                layer_norm_eps=1e-12,
                is_decoder=True,  # adds cross-attention; attention is causal only if the call sets `is_decoder` too
                attn_implementation="eager",  # the only one that supports the masks of these classes
            ),
            add_pooling_layer=False,
        )
        self.head = nn.Sequential(*(nn.Linear(*ends) for ends in pairwise((sizes.text_width, *sizes.head))))

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Compute raw scores [n].

        pixels: normalized [n, 3, size, size]. tokens, mask: [n, length]; the mask is 1 for text and 0 for padding.
        """
        patches = self.vision(pixel_values=pixels).last_hidden_state
        read: Tensor = self.text(
            input_ids=tokens, attention_mask=mask, encoder_hidden_states=patches, is_decoder=False
        ).last_hidden_state
        value: Tensor = self.head(read[:, 0])
        return value.squeeze(-1)


UNUSED = frozenset(
    {
        "blip.vision_proj.weight",
        "blip.vision_proj.bias",
        "blip.text_proj.weight",
        "blip.text_proj.bias",
        "blip.text_encoder.embeddings.position_ids",
    }
)
"""Published tensors that the score does not use: BLIP's contrastive projections and the position ids 0 to 511."""

_PUBLISHED = {
    "vision.embeddings.class_embedding": "blip.visual_encoder.cls_token",
    "vision.embeddings.position_embedding": "blip.visual_encoder.pos_embed",
    "vision.embeddings.patch_embedding.": "blip.visual_encoder.patch_embed.proj.",
    "vision.post_layernorm.": "blip.visual_encoder.norm.",
    "vision.encoder.layers.": "blip.visual_encoder.blocks.",
    ".layer_norm1.": ".norm1.",
    ".layer_norm2.": ".norm2.",
    ".self_attn.qkv.": ".attn.qkv.",
    ".self_attn.projection.": ".attn.proj.",
    "text.": "blip.text_encoder.",
    "head.0.": "mlp.layers.0.",
    "head.1.": "mlp.layers.2.",  # the published head also numbers its dropouts
    "head.2.": "mlp.layers.4.",
    "head.3.": "mlp.layers.6.",
    "head.4.": "mlp.layers.7.",
}
"""Parts of the scorer's tensor names and the corresponding published names. All other parts are identical."""


def published_name(name: str) -> str:
    """Return the published name of the scorer's tensor `name`. Shapes and contents are the same."""
    for ours, theirs in _PUBLISHED.items():
        name = name.replace(ours, theirs)
    return name


def load_scorer(tensors: Mapping[str, Tensor], sizes: BlipSizes) -> BlipScorer:
    """Build a frozen scorer from the published `tensors`, in float32 on the CPU and in eval mode.

    Raises ValueError if tensors are missing, unexpected, or have other shapes than `sizes` requires.
    """
    with torch.device("meta"):  # skips the initialization, because all weights are loaded
        scorer = BlipScorer(sizes)
    names = {ours: published_name(ours) for ours in scorer.state_dict()}
    found = {name: tensor.shape for name, tensor in tensors.items() if name not in UNUSED}
    check_shapes("ImageReward", found, {names[ours]: wanted.shape for ours, wanted in scorer.state_dict().items()})
    scorer.load_state_dict({ours: tensors[theirs].float() for ours, theirs in names.items()}, assign=True)
    scorer.text.embeddings.position_ids = torch.arange(sizes.positions)[None]  # a buffer that is not in the file
    return scorer.requires_grad_(False).eval()
