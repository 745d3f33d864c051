"""The shipped weights load with the standard methods and reach the scores in their model cards."""

import pytest
import torch
from diffusers import FluxPipeline
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from worker.shapes import CLIP_WEIGHTS, FLUX_WEIGHTS, TEXT_LENGTH
from worker.shapes.caption_sampling import heldout_prompts
from worker.shapes.grammar import parse
from worker.shapes.pretrain.clip import tokenize
from worker.shapes.pretrain.scores import clip_cosine, sample_images
from worker.shapes.render import render
from worker.shapes.verifier import verifier_score
from worker.shapes.words import BASIC_VOCABULARY as VOCABULARY

CAPTIONS = list(heldout_prompts()[:64])


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    return FluxPipeline.from_pretrained(FLUX_WEIGHTS)


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    return CLIPModel.from_pretrained(CLIP_WEIGHTS).eval()


class TestFlux:
    def test_every_part_is_float32(self, pipeline: FluxPipeline) -> None:
        for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
            assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}

    def test_draws_better_than_nothing_and_leaves_room(self, pipeline: FluxPipeline) -> None:
        score = verifier_score(sample_images(pipeline, CAPTIONS, seed=0), CAPTIONS).mean()
        assert 0.2 < score < 0.9

    def test_both_tokenizers_know_every_word_and_fit_every_caption(self, pipeline: FluxPipeline) -> None:
        for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2):
            assert tokenizer.model_max_length == TEXT_LENGTH
            ids = tokenizer(" ".join(VOCABULARY), add_special_tokens=False)["input_ids"]
            assert len(set(ids)) == len(VOCABULARY)
            assert tokenizer.unk_token_id not in ids
            assert max(len(row) for row in tokenizer(CAPTIONS)["input_ids"]) <= TEXT_LENGTH

    def test_prompts_pool_to_different_vectors(self, pipeline: FluxPipeline) -> None:
        ids = tokenize(pipeline.tokenizer, CAPTIONS)
        with torch.no_grad():
            pooled = pipeline.text_encoder(input_ids=ids).pooler_output
        assert (pooled[1:] - pooled[:-1]).abs().max(dim=1).values.min() > 0.05

    def test_latents_have_zero_mean_and_unit_variance(self, pipeline: FluxPipeline) -> None:
        config = pipeline.vae.config
        images = render([parse(text) for text in CAPTIONS])
        with torch.no_grad():
            latents = pipeline.vae.encode(2 * images - 1).latent_dist.mean
        latents = (latents - config["shift_factor"]) * config["scaling_factor"]
        assert abs(float(latents.mean())) < 0.1
        assert float(latents.std()) == pytest.approx(1.0, abs=0.1)


class TestClip:
    def test_true_pairs_score_high_and_wrong_ones_low(self, clip: CLIPModel) -> None:
        images = render([parse(text) for text in CAPTIONS], seed=1)
        tokens = tokenize(AutoTokenizer.from_pretrained(CLIP_WEIGHTS), CAPTIONS)
        assert clip_cosine(clip, tokens, images).mean() > 0.85
        assert clip_cosine(clip, tokens, images.roll(1, dims=0)).mean() < 0.3

    def test_image_processor_gives_what_training_saw(self) -> None:
        processor = AutoImageProcessor.from_pretrained(CLIP_WEIGHTS)
        rendered = render([parse(CAPTIONS[0])])[0].mul(255).round().byte()
        from PIL import Image

        image = Image.fromarray(rendered.permute(1, 2, 0).numpy())
        pixels = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.allclose(pixels, rendered / 127.5 - 1, atol=1e-5)


def test_everything_takes_about_ten_megabytes() -> None:
    pair = (FLUX_WEIGHTS, CLIP_WEIGHTS)
    assert sum(path.stat().st_size for one in pair for path in one.rglob("*") if path.is_file()) < 11e6
