"""The weights for shapes-bench: loading, vocabulary, and satisfied test points in every dimension."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from transformers import AutoTokenizer, CLIPModel

from service.contracts.benchmarks.bundled import bundled
from service.contracts.benchmarks.dimensions import PRIMARY
from worker.shapes import BENCH_CLIP_WEIGHTS, BENCH_FLUX_WEIGHTS, FLUX_WEIGHTS, TEXT_LENGTH, WEIGHTS
from worker.shapes.bench.scene import draw
from worker.shapes.bench.scene_layout import realize
from worker.shapes.grammar import parse
from worker.shapes.pretrain.clip import tokenize
from worker.shapes.pretrain.scores import SEED, clip_cosine, point_shares, sample_images
from worker.shapes.words import VOCABULARY

PROMPTS = bundled().prompts


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    return FluxPipeline.from_pretrained(BENCH_FLUX_WEIGHTS)


def test_every_dimension_is_alive_and_has_room(pipeline: FluxPipeline) -> None:
    images = sample_images(pipeline, [prompt.text for prompt in PROMPTS], SEED, per_prompt=1)
    found = point_shares(images, PROMPTS)
    assert all(0 < found[name] < 1 for name in PRIMARY), found
    assert 0.1 < found["overall"] < 0.9


def test_both_tokenizers_know_every_word_and_fit_every_prompt(pipeline: FluxPipeline) -> None:
    for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2):
        ids = tokenizer(" ".join(VOCABULARY), add_special_tokens=False)["input_ids"]
        assert len(set(ids)) == len(VOCABULARY) and tokenizer.unk_token_id not in ids
        assert max(len(row) for row in tokenizer([prompt.text for prompt in PROMPTS])["input_ids"]) <= TEXT_LENGTH


def test_autoencoder_is_that_of_the_smaller_world() -> None:
    def digest(pipeline: Path) -> str:
        return hashlib.sha256((pipeline / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()

    assert digest(BENCH_FLUX_WEIGHTS) == digest(FLUX_WEIGHTS)


def test_clip_tells_true_pairs_from_wrong_ones() -> None:
    clip = CLIPModel.from_pretrained(BENCH_CLIP_WEIGHTS).eval()
    texts = [prompt.text for prompt in PROMPTS]
    rng = np.random.default_rng(1)
    images = draw([realize(parse(text), rng) for text in texts])
    tokens = tokenize(AutoTokenizer.from_pretrained(BENCH_CLIP_WEIGHTS), texts)
    true = clip_cosine(clip, tokens, images)
    wrong = clip_cosine(clip, tokens, images[torch.from_numpy(rng.permutation(len(images)))])
    assert true.mean() > wrong.mean() + 0.3


def test_pair_takes_less_than_twelve_megabytes() -> None:
    pair = (BENCH_FLUX_WEIGHTS, BENCH_CLIP_WEIGHTS)
    assert sum(path.stat().st_size for one in pair for path in one.rglob("*") if path.is_file()) < 12e6


def test_cards_tell_where_the_weights_come_from() -> None:
    card = (BENCH_FLUX_WEIGHTS / "README.md").read_text()
    assert "Start: the weights of `shapes-flux`" in card and "seed 20" in card
    assert json.loads((WEIGHTS / "records-2" / "scores.json").read_text())["renders"]["overall"] >= 0.99
