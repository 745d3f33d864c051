"""The prompt cache is bounded in size, and cached encodings are bit-identical to new encodings."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from service.contracts.catalog import ModelEntry
from tests.worker.engine.models.tiny import PROMPTS, make
from worker.engine.models import load_model
from worker.engine.models.base import Conditioning, FlowModel
from worker.engine.models.prompt_cache import Encodings, EncodingStore

CPU = torch.device("cpu")
MUCH = 2**20


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> ModelEntry:
    return make("sd3", tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="module")
def model(entry: ModelEntry) -> FlowModel:
    return load_model(entry, CPU, torch.float32)


def same(found: Conditioning, expected: Conditioning) -> bool:
    return torch.equal(found.pooled, expected.pooled) and torch.equal(found.sequence, expected.sequence)


def row(value: float) -> Conditioning:
    """An encoding of 40 bytes."""
    return Conditioning(torch.full((1, 2), value), torch.full((1, 2, 4), value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_are_those_of_the_model(entry: ModelEntry, tmp_path: Path, dtype: torch.dtype) -> None:
    model = load_model(entry, CPU, dtype)
    encodings = Encodings(model, EncodingStore(MUCH, tmp_path), moves=False)
    encodings.prepare(PROMPTS[:3])
    for prompts in (PROMPTS, [PROMPTS[3], PROMPTS[0], PROMPTS[3]]):
        assert same(encodings.encode(prompts), model.encode(prompts))


def test_prompt_is_encoded_once(model: FlowModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    encode = model.encode

    def counted(prompts: Sequence[str]) -> Conditioning:
        asked.extend(prompts)
        return encode(prompts)

    monkeypatch.setattr(model, "encode", counted)
    encodings = Encodings(model, EncodingStore(MUCH, tmp_path), moves=False)
    encodings.encode([PROMPTS[0], PROMPTS[1], PROMPTS[0]])
    encodings.encode(PROMPTS)
    assert sorted(asked) == sorted(PROMPTS)


def test_encoders_that_are_fetched_encode_what_comes_next(model: FlowModel, tmp_path: Path) -> None:
    for moves in (True, False):
        store = EncodingStore(MUCH, tmp_path / str(moves))
        encodings = Encodings(model, store, moves)
        assert same(encodings.encode(PROMPTS[:2], ahead=lambda: PROMPTS[1:]), model.encode(PROMPTS[:2]))
        one = store.bytes / (4 if moves else 2)
        encodings.prepare(PROMPTS)
        assert store.bytes == 4 * one


def test_what_has_no_room_is_encoded_again(model: FlowModel, tmp_path: Path) -> None:
    encodings = Encodings(model, EncodingStore(1, tmp_path), moves=True)
    assert same(encodings.encode(PROMPTS), model.encode(PROMPTS))
    assert same(encodings.encode(PROMPTS[:1]), model.encode(PROMPTS[:1]))


def test_prompt_that_cannot_be_encoded_is_named(model: FlowModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not know dinosaur"):
        Encodings(model, EncodingStore(MUCH, tmp_path), moves=False).prepare(["a dinosaur"])


def test_store_keeps_what_was_used_last_within_its_bytes(tmp_path: Path) -> None:
    store = EncodingStore(100, tmp_path)
    store.put("a", row(1.0))
    store.put("b", row(2.0))
    assert store.get("a") is not None
    store.put("c", row(3.0))
    assert ("a" in store, "b" in store, "c" in store) == (True, False, True)
    assert store.get("b") is None
    assert store.bytes == 80
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c"]


def test_store_on_disk_is_found_again(tmp_path: Path) -> None:
    EncodingStore(MUCH, tmp_path).put("a", row(1.0))
    found = EncodingStore(MUCH, tmp_path).get("a")
    assert found is not None
    assert same(found, row(1.0))


def test_encoders_length_and_dtype_tell_encodings_apart(entry: ModelEntry, model: FlowModel, tmp_path: Path) -> None:
    longer = entry.model_copy(update={"text_length": 10})
    others = [
        load_model(longer, CPU, torch.float32),
        load_model(entry, CPU, torch.bfloat16),
        load_model(make("sd3-without-t5", tmp_path), CPU, torch.float32),
    ]
    identities = {one.encoding_identity() for one in (model, *others)}
    assert len(identities) == 4
    assert load_model(entry, CPU, torch.float32).encoding_identity() == model.encoding_identity()
