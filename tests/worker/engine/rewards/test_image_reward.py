"""ImageReward: values equal the published computation, and files may contain only tensors."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from service.contracts.catalog import RewardEntry, Source
from tests.worker.engine.rewards.published_image_reward import (
    TINY,
    WORDS,
    Original,
    normalized,
    published_shapes,
    published_tensors,
    transformed,
)
from worker.engine.rewards import load_reward
from worker.engine.rewards.blip import UNUSED, BlipScorer, BlipSizes, load_scorer, published_name
from worker.engine.rewards.image_reward import ImageReward
from worker.engine.rewards.preprocessing import center_square

CPU = torch.device("cpu")


PROMPTS = ["a red square", "Blue squares and a red circle", "a red square", "circle, circle of " * 12]


TOKENS = [
    [2, 5, 6, 8, 3],  # [CLS] first, which BLIP's matching head replaces with [ENC], but ImageReward does not
    [2, 7, 8, 9, 11, 5, 6, 10, 3],
    [2, 5, 6, 8, 3],
    [2, *([10, 13, 10, 12] * 12)[:33], 3],
]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    place = tmp_path / "words"
    place.mkdir()
    (place / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return place


@pytest.fixture
def entry(tmp_path: Path, tokenizer: Path) -> RewardEntry:
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.save(published_tensors(TINY), weights / "ImageReward.pt")
    return RewardEntry(
        name="image_reward",
        kind="image_reward",
        source=Source(directory=weights),
        tokenizer=Source(directory=tokenizer),
    )


def weights_of(entry: RewardEntry) -> Path:
    assert entry.source is not None and entry.source.directory is not None
    return entry.source.directory / "ImageReward.pt"


def noise(*shape: int, seed: int = 2) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_values_are_those_of_the_published_computation(entry: RewardEntry) -> None:
    images = noise(4, 3, 48, 40)
    tokens, mask = torch.zeros(2, 4, 35, dtype=torch.long)
    for row, ids in enumerate(TOKENS):
        tokens[row, : len(ids)], mask[row, : len(ids)] = torch.tensor(ids), 1
    pixels = normalized(torch.stack([transformed(image, TINY.image) for image in images]))
    wanted = Original(published_tensors(TINY), TINY)(pixels, tokens, mask)

    values = ImageReward.load(entry, CPU, TINY).score(images, PROMPTS)

    assert values.dtype == torch.float32
    torch.testing.assert_close(values, wanted, rtol=0, atol=1e-5)


def test_required_tensors_equal_those_of_the_published_file() -> None:
    with torch.device("meta"):
        scorer = BlipScorer(BlipSizes())
    wanted = {published_name(name): tuple(tensor.shape) for name, tensor in scorer.state_dict().items()}
    published = published_shapes(BlipSizes())
    assert set(published) - set(wanted) == UNUSED
    assert wanted == {name: shape for name, shape in published.items() if name not in UNUSED}


def test_unused_tensors_are_optional() -> None:
    tensors = published_tensors(TINY)
    load_scorer({name: tensor for name, tensor in tensors.items() if name not in UNUSED}, TINY)


@pytest.mark.parametrize(("height", "width"), [(64, 48), (300, 400), (33, 32), (20, 27), (32, 32), (37, 91)])
def test_images_are_resized_and_cropped_as_pillow_does(height: int, width: int) -> None:
    images = noise(2, 3, height, width)
    wanted = torch.stack([transformed(image, 32) for image in images])
    assert torch.equal(center_square(images, 32), wanted)


def test_image_of_the_encoders_size_is_unchanged() -> None:
    levels = (noise(2, 3, 32, 32) * 255).round() / 255
    assert torch.equal(center_square(levels, 32), levels)


def test_value_does_not_depend_on_the_batch(entry: RewardEntry) -> None:
    reward, images = ImageReward.load(entry, CPU, TINY), noise(4, 3, 32, 32)
    alone = [reward.score(images[i : i + 1], PROMPTS[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), reward.score(images, PROMPTS), rtol=0, atol=1e-5)


def test_nonfinite_image_does_not_affect_others(entry: RewardEntry) -> None:
    images = noise(4, 3, 32, 32)
    images[1, 0, 3, 3] = torch.nan
    assert ImageReward.load(entry, CPU, TINY).score(images, PROMPTS).isnan().tolist() == [False, True, False, False]


def test_move_includes_all_tensors(entry: RewardEntry) -> None:
    reward, images = ImageReward.load(entry, CPU, TINY), noise(4, 3, 32, 32)
    before = reward.score(images, PROMPTS)
    reward.move(CPU)
    assert torch.equal(reward.score(images, PROMPTS), before)
    reward.move(torch.device("meta"))  # represents another device, because it exists on every machine
    assert reward._prepare(images).is_meta
    assert all(tensor.is_meta for tensor in (*reward._scorer.parameters(), *reward._scorer.buffers()))


def test_safetensors_take_precedence_and_give_equal_scores(entry: RewardEntry) -> None:
    images = noise(4, 3, 32, 32)
    before = ImageReward.load(entry, CPU, TINY).score(images, PROMPTS)
    save_file(published_tensors(TINY), weights_of(entry).with_suffix(".safetensors"))
    weights_of(entry).write_bytes(b"")
    assert torch.equal(ImageReward.load(entry, CPU, TINY).score(images, PROMPTS), before)


def test_half_precision_weights_are_scored_in_float32(entry: RewardEntry) -> None:
    halves = {name: tensor.half() for name, tensor in published_tensors(TINY).items()}
    torch.save(halves, weights_of(entry))
    reward = ImageReward.load(entry, CPU, TINY)
    assert reward.score(noise(4, 3, 32, 32), PROMPTS).dtype == torch.float32


def test_catalog_kind_requires_the_published_sizes(entry: RewardEntry) -> None:
    with pytest.raises(ValueError, match="the weights require 30524"):
        load_reward(entry, CPU)
    with pytest.raises(ValueError, match=r"\d+ missing: .*; \d+ of another shape: .* more"):
        load_scorer(published_tensors(TINY), BlipSizes())


def _without(tensors: dict[str, Tensor]) -> None:
    del tensors["blip.visual_encoder.blocks.2.attn.qkv.bias"]


def _with_more(tensors: dict[str, Tensor]) -> None:
    tensors["blip.itm_head.weight"] = torch.zeros(2)


def _misshapen(tensors: dict[str, Tensor]) -> None:
    tensors["mlp.layers.7.weight"] = torch.zeros(1, 5)


@pytest.mark.parametrize(
    ("change", "recorded"),
    [
        (_without, r"1 missing: blip\.visual_encoder\.blocks\.2\.attn\.qkv\.bias"),
        (_with_more, r"1 unexpected: blip\.itm_head\.weight"),
        (_misshapen, r"1 of another shape: mlp\.layers\.7\.weight is \[1, 5\], expected \[1, 6\]"),
    ],
)
def test_wrong_tensors_are_named(
    entry: RewardEntry, change: Callable[[dict[str, Tensor]], None], recorded: str
) -> None:
    tensors = published_tensors(TINY)
    change(tensors)
    torch.save(tensors, weights_of(entry))
    with pytest.raises(ValueError, match=recorded):
        ImageReward.load(entry, CPU, TINY)


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def test_pickle_executes_no_code(entry: RewardEntry, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    weights_of(entry).write_bytes(pickle.dumps({"mlp.layers.0.weight": Trap(sprung)}, protocol=2))
    with pytest.raises(ValueError, match=r"ImageReward\.pt is damaged or contains more than tensors"):
        ImageReward.load(entry, CPU, TINY)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("held", "recorded"),
    [
        ({"mean": 0.5}, r"objects other than tensors: mean \(float\)"),
        ({"state_dict": {}}, r"objects other than tensors: state_dict \(dict\)"),
        ([torch.zeros(1)], "a list instead of named tensors"),
    ],
)
def test_pickle_with_other_objects_is_rejected(entry: RewardEntry, held: object, recorded: str) -> None:
    torch.save(held, weights_of(entry))
    with pytest.raises(ValueError, match=recorded):
        ImageReward.load(entry, CPU, TINY)


@pytest.mark.parametrize(("name", "write"), [("ImageReward.pt", torch.save), ("ImageReward.safetensors", save_file)])
def test_truncated_file_is_rejected(entry: RewardEntry, name: str, write: Callable[..., None]) -> None:
    path = weights_of(entry).with_name(name)
    write(published_tensors(TINY), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"{name} is damaged or contains more than tensors"):
        ImageReward.load(entry, CPU, TINY)


def test_missing_file_is_reported_with_its_directory(entry: RewardEntry) -> None:
    weights_of(entry).unlink()
    with pytest.raises(ValueError, match=r"ImageReward\.safetensors or ImageReward\.pt not found in .*weights"):
        ImageReward.load(entry, CPU, TINY)


def test_catalog_may_name_the_file(entry: RewardEntry) -> None:
    path = weights_of(entry)
    path.rename(path.with_name("mine.pt"))
    named = entry.model_copy(update={"source": Source(directory=path.parent, file="mine.pt")})
    assert ImageReward.load(named, CPU, TINY).score(noise(4, 3, 32, 32), PROMPTS).isfinite().all()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub's client in offline mode."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_weights_of_the_hub_are_found_in_its_cache(entry: RewardEntry, hub: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = hub / "models--THUDM--ImageReward" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    weights_of(entry).rename(snapshot / "ImageReward.pt")
    cached = entry.model_copy(update={"source": Source(hub="THUDM/ImageReward", revision=commit)})
    assert ImageReward.load(cached, CPU, TINY).score(noise(4, 3, 32, 32), PROMPTS).isfinite().all()


def test_failed_hub_download_is_reported(entry: RewardEntry, hub: Path) -> None:
    away = entry.model_copy(update={"source": Source(hub="THUDM/ImageReward")})
    with pytest.raises(ValueError, match=r"cannot download THUDM/ImageReward/ImageReward\.pt from the hub: \w+"):
        ImageReward.load(away, CPU, TINY)


def test_tokenizer_of_another_vocabulary_is_refused(entry: RewardEntry, tokenizer: Path) -> None:
    (tokenizer / "vocab.txt").write_text("\n".join(WORDS[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"has 15 tokens; the weights require 16"):
        ImageReward.load(entry, CPU, TINY)
