"""open_clip's layout: the tensors of full-size models map one-to-one to transformers' tensors."""

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from worker.engine.rewards.open_clip import architecture, layout, to_transformers


def vit_h_14() -> dict[str, Tensor]:
    """ViT-H/14's tensor shapes on the meta device, derived from its architecture."""
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "positional_embedding": (77, 1024),
        "text_projection": (1024, 1024),
        "token_embedding.weight": (49408, 1024),
        "visual.class_embedding": (1280,),
        "visual.conv1.weight": (1280, 3, 14, 14),
        "visual.positional_embedding": (257, 1280),
        "visual.proj": (1280, 1024),
    }
    for name, width in (("ln_final", 1024), ("visual.ln_pre", 1280), ("visual.ln_post", 1280)):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for tower, width, layers in (("", 1024, 24), ("visual.", 1280, 32)):
        for layer in range(layers):
            block = f"{tower}transformer.resblocks.{layer}"
            linear = {
                "attn.out_proj": (width, width),
                "mlp.c_fc": (4 * width, width),
                "mlp.c_proj": (width, 4 * width),
                "ln_1": (width,),
                "ln_2": (width,),
            }
            for name, shape in linear.items():
                shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
            shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_key_map_is_complete_both_ways_at_true_size() -> None:
    tensors = vit_h_14()
    config = architecture(tensors, None)
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in CLIPModel(config).state_dict().items()}
    converted = to_transformers(tensors, config)
    assert {name: tensor.shape for name, tensor in converted.items()} == wanted
    assert layout(24, 32).keys() == tensors.keys()
    assert sum(tensor.numel() for tensor in converted.values()) == 986_109_441


def test_architecture_is_read_from_the_shapes() -> None:
    config = architecture(vit_h_14(), None)
    assert isinstance(config, CLIPConfig)
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (1280, 32, 16)
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (1024, 24, 16)
    assert (vision.image_size, vision.patch_size, config.projection_dim) == (224, 14, 1024)
    assert (vision.hidden_act, text.hidden_act) == ("gelu", "gelu")
    assert (text.eos_token_id, text.max_position_embeddings) == (49407, 77)


def test_activation_is_as_described() -> None:
    recorded = {"model_cfg": {"quick_gelu": True, "vision_cfg": {"head_width": 80}, "text_cfg": {"heads": 16}}}
    config = architecture(vit_h_14(), recorded)
    assert (config.vision_config.hidden_act, config.vision_config.num_attention_heads) == ("quick_gelu", 16)
