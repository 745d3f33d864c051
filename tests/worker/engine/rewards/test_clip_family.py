"""CLIP score and HPS: preprocessing, features and scores equal the results of the original packages."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import CLIPImageProcessorPil

from service.contracts.catalog import RewardEntry, Source
from tests.worker.engine.rewards.conftest import Golden, load_image
from worker.engine.rewards import load_reward
from worker.engine.rewards.clip import ClipReward

CPU = torch.device("cpu")
SQUARE = {"height": 224, "width": 224}
MODELS = ["hps", "dfn"]
KINDS = {"hps": "hps", "dfn": "clip"}
FILES = {"hps": "HPS_v2.1_compressed.pt", "dfn": "open_clip_model.safetensors"}


def load(model: str, directory: Path, **given: Any) -> ClipReward:
    entry = RewardEntry(name=model, kind=KINDS[model], source=Source(directory=directory), **given)  # type: ignore[arg-type]
    reward = load_reward(entry, CPU)
    assert isinstance(reward, ClipReward)
    return reward


def save_as_transformers(reward: ClipReward, out: Path) -> None:
    """The reward's weights in the transformers layout of CLIP."""
    reward.model.save_pretrained(out)
    CLIPImageProcessorPil(size=SQUARE, crop_size=SQUARE).save_pretrained(out)


def golden_images(golden: Golden, model: str) -> list[Tensor]:
    """The golden images as inputs of rewards.

    open_clip's squash resizes a file in its original mode. An image with transparency or a palette would differ after
    conversion to RGB, so it is resized before the conversion.
    """
    return [
        squashed_in_its_mode(golden["directory"] / "images" / name)
        if model == "dfn" and ("RGBA" in name or "_P" in name)
        else load_image(golden["directory"] / "images" / name)
        for name in golden["images"]
    ]


def squashed_in_its_mode(path: Path) -> Tensor:
    with Image.open(path) as image:
        small = image.resize((224, 224), Image.Resampling.BICUBIC).convert("RGB")
    return torch.tensor(list(small.tobytes()), dtype=torch.float32).view(1, 224, 224, 3).permute(0, 3, 1, 2) / 255


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reward(model: str, published: Path) -> ClipReward:
    return load(model, published / model)


def test_preprocessing_is_the_original_packages(golden: Golden, model: str, reward: ClipReward) -> None:
    mean, std = (torch.tensor(golden[name])[:, None, None] for name in ("mean", "std"))
    for index, given in enumerate(golden_images(golden, model)):
        pixels = ((reward.prepare(given) - mean) / std)[0]
        assert_close(pixels[:, ::8, ::8], golden[f"{model}.pixels_every_8th"][index], rtol=0, atol=1e-6)
        moments = torch.stack([pixels.mean((1, 2)), pixels.std((1, 2))], dim=1)
        assert_close(moments, golden[f"{model}.pixel_mean_std"][index], rtol=0, atol=1e-6)


def test_features_and_cosines_are_the_original_packages(golden: Golden, model: str, reward: ClipReward) -> None:
    images = torch.cat([reward.image_features(given) for given in golden_images(golden, model)])
    texts = reward.token_features(golden["token_ids"])
    assert_close(images, golden[f"{model}.image_features"], rtol=0, atol=1e-4)
    assert_close(texts, golden[f"{model}.text_features"], rtol=0, atol=1e-4)
    assert_close(images @ texts.T, golden[f"{model}.cosine"], rtol=0, atol=1e-4)


def test_scores_of_images_and_prompts_are_the_original_packages(
    golden: Golden, model: str, published: Path, clip_vocabulary: Path
) -> None:
    reward = load(model, published / model, tokenizer=Source(directory=clip_vocabulary))
    prompts = golden["prompts"]
    for index, given in enumerate(golden_images(golden, model)):
        chosen = [(3 * index + place) % len(prompts) for place in range(3)]  # three in sequence: all arrive
        values = reward.score(given.expand(3, -1, -1, -1), [prompts[place] for place in chosen])
        assert values.dtype == torch.float32
        assert_close(values, golden[f"{model}.cosine"][index, chosen], rtol=0, atol=1e-4)


def test_converted_directory_gives_the_same_bits(
    golden: Golden, model: str, reward: ClipReward, published: Path, vocabulary: Path, tmp_path: Path
) -> None:
    out = tmp_path / "converted"
    save_as_transformers(reward, out)
    if (description := published / model / "open_clip_config.json").is_file():
        shutil.copyfile(description, out / description.name)
    converted = load(model, out, tokenizer=Source(directory=vocabulary))
    given, prompts = golden_images(golden, model)[1].expand(2, -1, -1, -1), ["“curly” &amp;  QUOTES", "a fox"]
    assert torch.equal(converted.score(given, prompts), reward.score(given, prompts))


def test_half_precision_weights_are_scored_in_float32(golden: Golden, published: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(published / "hps", tmp_path / "half")
    tensors = torch.load(golden["directory"] / "hps.pt", weights_only=True)["state_dict"]
    torch.save({"state_dict": {name: tensor.half() for name, tensor in tensors.items()}}, directory / FILES["hps"])
    reward = load("hps", directory)
    assert reward.model.dtype == torch.float32
    assert_close(reward.token_features(golden["token_ids"]), golden["hps.text_features"], rtol=0, atol=1e-2)


def test_nonfinite_image_does_not_affect_others(reward: ClipReward) -> None:
    given = torch.rand(3, 3, 40, 300, generator=torch.Generator().manual_seed(4))
    given[1, 0, 3, 150] = torch.nan
    assert reward.score(given, ["a fox"] * 3).isnan().tolist() == [False, True, False]


def test_it_moves_with_its_cached_prompts_and_scores_the_same_where_it_was(golden: Golden, published: Path) -> None:
    reward = load("hps", published / "hps")
    given = load_image(golden["directory"] / "images" / golden["images"][0])
    before = reward.score(given, ["a fox"])
    reward.move(CPU)
    assert torch.equal(reward.score(given, ["a fox"]), before)
    reward.move(torch.device("meta"))  # represents another device, because it exists on every machine
    assert reward.text_features(["a fox"]).is_meta
    assert all(tensor.is_meta for tensor in (*reward.model.parameters(), *reward.model.buffers()))
    assert reward.score(given, ["a fox"]).is_meta


def test_bin_file_of_tensors_loads_as_safetensors_do(
    golden: Golden, published: Path, tmp_path: Path, vocabulary: Path
) -> None:
    directory = shutil.copytree(published / "dfn", tmp_path / "bin")
    (directory / FILES["dfn"]).unlink()
    torch.save(load_file(published / "dfn" / FILES["dfn"]), directory / "open_clip_pytorch_model.bin")
    features = load("dfn", directory).token_features(golden["token_ids"])
    assert torch.equal(features, load("dfn", published / "dfn").token_features(golden["token_ids"]))


class Refused:
    def __reduce__(self) -> Any:
        return (print, ("run while reading",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("ln_final.weight"), "ln_final.weight"),
        (
            lambda tensors: tensors.pop("visual.transformer.resblocks.1.ln_1.bias"),
            "visual.transformer.resblocks.1.ln_1",
        ),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "unexpected: extra"),
        (lambda tensors: tensors.update({"visual.proj": torch.zeros(64, 31)}), "visual.proj is \\(64, 31\\)"),
        (lambda tensors: tensors.update({"text_projection": torch.zeros(16, 48)}), "embed_dim 32; .* require 48"),
        (lambda tensors: tensors.update({"ln_final.bias": Refused()}), "contains more than tensors"),
        (lambda tensors: tensors.update({"ln_final.bias": 3}), "ln_final.bias \\(int\\)"),
    ],
)
def test_file_that_does_not_fit_is_refused_by_name(
    golden: Golden, published: Path, tmp_path: Path, change: Any, said: str
) -> None:
    directory = shutil.copytree(published / "hps", tmp_path / "changed")
    tensors = torch.load(golden["directory"] / "hps.pt", weights_only=True)["state_dict"]
    change(tensors)
    torch.save({"state_dict": tensors}, directory / FILES["hps"])
    with pytest.raises(ValueError, match=said):
        load("hps", directory)


def test_plain_pickle_is_refused(published: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(published / "hps", tmp_path / "pickle")
    (directory / FILES["hps"]).write_bytes(pickle.dumps({"state_dict": Refused()}, protocol=2))
    with pytest.raises(ValueError, match="contains more than tensors"):
        load("hps", directory)


def test_what_is_not_there_is_named(published: Path, tmp_path: Path, vocabulary: Path) -> None:
    with pytest.raises(ValueError, match=r"HPS_v2\.1_compressed\.pt not found"):
        load("hps", vocabulary)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copyfile(published / "dfn" / FILES["dfn"], alone / FILES["dfn"])
    with pytest.raises(ValueError, match=r"needs open_clip_config\.json"):
        load("dfn", alone)
    shutil.copyfile(published / "hps" / FILES["hps"], alone / FILES["hps"])
    with pytest.raises(ValueError, match="tokenizer"):
        load("hps", alone)


def test_description_of_another_architecture_is_refused(published: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(published / "dfn", tmp_path / "other")
    path = directory / "open_clip_config.json"
    told = json.loads(path.read_text())
    told["model_cfg"]["vision_cfg"]["layers"] = 3
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"has vision_cfg\.layers 3; the tensors' shapes require 2"):
        load("dfn", directory)


def described(published: Path, directory: Path, **preprocessing: Any) -> Path:
    """DFN's weights with the given preprocessing in the configuration file."""
    shutil.copytree(published / "dfn", directory)
    path = directory / "open_clip_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"preprocess_cfg": preprocessing}))
    return directory


def pillow_middle(given: Tensor, size: tuple[int, int], box: tuple[int, int, int, int]) -> Tensor:
    levels = (given[0] * 255).round().to(torch.uint8).permute(1, 2, 0)
    small = Image.fromarray(levels.numpy()).resize(size, Image.Resampling.BICUBIC).crop(box)
    return torch.tensor(list(small.tobytes()), dtype=torch.float32).view(1, 224, 224, 3).permute(0, 3, 1, 2) / 255


@pytest.fixture
def wide() -> Tensor:
    """An image that has margins of 1.5 pixels when resized to 227×224."""
    return torch.rand(1, 3, 448, 454, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("told", [{}, {"resize_mode": None}, {"resize_mode": "shortest"}])
def test_middle_is_cut_where_open_clip_cuts_it(
    published: Path, tmp_path: Path, wide: Tensor, told: dict[str, Any]
) -> None:
    reward = load("dfn", described(published, tmp_path / "middle", **told))
    assert torch.equal(reward.prepare(wide), pillow_middle(wide, (227, 224), (2, 0, 226, 224)))
    as_it_is = torch.rand(1, 3, 224, 224)
    assert torch.equal(reward.prepare(as_it_is), as_it_is)


def test_another_way_to_a_square_is_refused_by_name(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reward 'dfn': .* resize_mode 'longest'; expected squash or shortest"):
        load("dfn", described(published, tmp_path / "longest", resize_mode="longest"))


@pytest.fixture(scope="module")
def converted(published: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DFN's weights in the transformers layout, with the tokenizer, without open_clip's configuration file."""
    out = tmp_path_factory.mktemp("converted") / "transformers"
    save_as_transformers(load("dfn", published / "dfn"), out)
    shutil.copytree(vocabulary, out, dirs_exist_ok=True)
    return out


@pytest.fixture
def directory(converted: Path, tmp_path: Path) -> Path:
    """A copy of these weights that one test may change."""
    return shutil.copytree(converted, tmp_path / "transformers")


def processed(directory: Path, **changes: Any) -> ClipReward:
    path = directory / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return load("dfn", directory)


@pytest.mark.parametrize("size", [{"shortest_edge": 224}, 224])
def test_transformers_processors_cut_the_middle_and_round_the_margin_down(
    directory: Path, wide: Tensor, size: Any
) -> None:
    reward = processed(directory, size=size, crop_size=SQUARE, do_center_crop=True)
    assert torch.equal(reward.prepare(wide), pillow_middle(wide, (227, 224), (1, 0, 225, 224)))


@pytest.mark.parametrize("crops", [True, False])
def test_transformers_processors_squash_to_a_size_of_two_sides(directory: Path, wide: Tensor, crops: bool) -> None:
    reward = processed(directory, size=SQUARE, crop_size=SQUARE, do_center_crop=crops)
    assert torch.equal(reward.prepare(wide), pillow_middle(wide, (224, 224), (0, 0, 224, 224)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": {"shortest_edge": 256}}, "'shortest_edge': 256"),
        ({"size": {"shortest_edge": 224}, "do_center_crop": False}, "crop None"),
        ({"size": {"height": 224, "width": 256}}, "'width': 256"),
        ({"do_resize": False}, "do_resize False"),
    ],
    ids=["wider", "uncut", "oblong", "as-it-is"],
)
def test_processor_that_does_otherwise_is_refused(directory: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"reward 'dfn': preprocessor_config\.json has .*{said}.*; expected a size"):
        processed(directory, **changes)


@pytest.mark.parametrize("change", ["missing", "unexpected", "of another shape"])
def test_directory_that_does_not_fit_is_refused_by_name(
    published: Path, vocabulary: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "converted"
    save_as_transformers(load("dfn", published / "dfn"), out)
    tensors = load_file(out / "model.safetensors")
    whole = tensors.pop("visual_projection.weight")
    if change == "unexpected":
        tensors |= {"visual_projection.weight": whole, "visual_projection.weight_2": whole.clone()}
    elif change == "of another shape":
        tensors["visual_projection.weight"] = whole[:, :-1].contiguous()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{change}: visual_projection"):
        load("dfn", out, tokenizer=Source(directory=vocabulary))
