"""PickScore: values equal the results of transformers' processor and model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from service.contracts.catalog import RewardEntry, Source
from worker.engine.rewards import Reward, load_reward
from worker.engine.rewards.pickscore import PickScoreReward

PROMPTS = ["a fox in snow", "“Curly” &amp; quotes"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model in the published layout: transformers with safetensors."""
    torch.manual_seed(3)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        projection_dim=16,
        text_config={**tower, "vocab_size": 49408, "hidden_act": "gelu", "eos_token_id": 2},
        vision_config={**tower, "image_size": 56, "patch_size": 14, "hidden_act": "gelu"},
    )
    directory = tmp_path_factory.mktemp("pickscore")
    CLIPModel(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def entry(weights: Path, vocabulary: Path) -> RewardEntry:
    return RewardEntry(
        name="pickscore",
        kind="pickscore",
        source=Source(directory=weights),
        tokenizer=Source(directory=vocabulary),
    )


@pytest.fixture(scope="module")
def reward(entry: RewardEntry) -> Reward:
    return load_reward(entry, torch.device("cpu"))


@pytest.fixture(scope="module")
def original(weights: Path) -> CLIPModel:
    return CLIPModel.from_pretrained(weights).eval()


@pytest.mark.parametrize(("width", "height"), [(56, 56), (80, 59), (57, 90), (200, 131), (7, 5)])
def test_value_equals_that_of_transformers(
    reward: Reward, original: CLIPModel, vocabulary: Path, width: int, height: int
) -> None:
    levels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    given = torch.from_numpy(levels).permute(2, 0, 1)[None].float().expand(2, -1, -1, -1) / 255
    values = reward.score(given, PROMPTS)

    processor = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    text = CLIPTokenizer.from_pretrained(vocabulary)(
        PROMPTS, padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        images = original.get_image_features(**processor(Image.fromarray(levels), return_tensors="pt")).pooler_output
        texts = original.get_text_features(**text).pooler_output
        images, texts = images / images.norm(dim=-1, keepdim=True), texts / texts.norm(dim=-1, keepdim=True)
        own = original.logit_scale.exp() * (texts @ images.T)[:, 0]
    torch.testing.assert_close(values, own, rtol=0, atol=1e-4)


def test_missing_safetensors_are_reported(vocabulary: Path) -> None:
    source = Source(directory=vocabulary)
    with pytest.raises(ValueError, match="reward 'pickscore'"):
        load_reward(RewardEntry(name="pickscore", kind="pickscore", source=source), torch.device("cpu"))


def test_pickscore_is_a_separate_kind(reward: Reward) -> None:
    assert isinstance(reward, PickScoreReward)
