"""The pretraining command: its output can be loaded, and the same seed gives the same weights."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from transformers import AutoTokenizer, CLIPModel

from worker.shapes import FLUX_WEIGHTS
from worker.shapes.bench.caption_sampling import Part, part_of
from worker.shapes.bench.caption_variants import alterations
from worker.shapes.caption_sampling import canonical, is_heldout, train_prompts
from worker.shapes.grammar import caption, parse
from worker.shapes.pretrain.__main__ import STAGES, main
from worker.shapes.pretrain.data import BasicScenes, BenchScenes
from worker.shapes.pretrain.presets import MINIATURE, Plan
from worker.shapes.pretrain.scores import sample_images
from worker.shapes.pretrain.stage import Stage, read_record

TINY = replace(
    MINIATURE,
    pairs=16,
    clip=Plan(steps=3, batch=8, learning_rate=1e-3),
    autoencoder=Plan(steps=3, batch=4, learning_rate=2e-3),
    flow=Plan(steps=3, schedule_steps=6, batch=4, learning_rate=1.5e-3),
)


class TestCommand:
    @pytest.fixture(scope="class")
    def out(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        directory = tmp_path_factory.mktemp("miniature")
        with pytest.MonkeyPatch.context() as patch:
            arguments = ["pretrain", "--out", str(directory), "--preset", "miniature", "--device", "cpu"]
            patch.setattr("sys.argv", arguments)
            main()
        return directory

    def test_writes_a_pipeline_that_draws(self, out: Path) -> None:
        pipeline = FluxPipeline.from_pretrained(out / "shapes-flux")
        assert sample_images(pipeline, train_prompts()[:2], seed=0, steps=2).shape == (2, 3, 32, 32)

    def test_writes_a_clip_with_its_tokenizer(self, out: Path) -> None:
        assert CLIPModel.from_pretrained(out / "shapes-clip").config.projection_dim == 64
        assert AutoTokenizer.from_pretrained(out / "shapes-clip").model_max_length == 16

    def test_latents_are_normalized(self, out: Path) -> None:
        config = FluxPipeline.from_pretrained(out / "shapes-flux").vae.config
        assert config["shift_factor"] is not None
        assert config["scaling_factor"] > 0

    def test_writes_model_cards(self, out: Path) -> None:
        for name in ("shapes-flux", "shapes-clip"):
            card = (out / name / "README.md").read_text()
            assert "license: apache-2.0" in card
            assert "seed 20" in card
        assert json.loads((out / "records" / "scores.json").read_text())["renders"]["verifier"] >= 0.995


class TestBenchCommand:
    @pytest.fixture(scope="class")
    def out(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        directory = tmp_path_factory.mktemp("bench-miniature")
        with pytest.MonkeyPatch.context() as patch:
            arguments = ["pretrain", "--out", str(directory), "--preset", "bench-miniature", "--device", "cpu"]
            patch.setattr("sys.argv", arguments)
            main()
        return directory

    def test_writes_a_pipeline_that_draws(self, out: Path) -> None:
        pipeline = FluxPipeline.from_pretrained(out / "shapes-flux-2")
        assert sample_images(pipeline, ["the letter E in red on white"], seed=0, steps=2).shape == (1, 3, 32, 32)

    def test_it_starts_from_the_weights_of_the_smaller_world(self, out: Path) -> None:
        made, known = (
            FluxPipeline.from_pretrained(source).text_encoder_2.get_input_embeddings().weight
            for source in (out / "shapes-flux-2", FLUX_WEIGHTS)
        )
        assert len(made) > len(known)
        assert torch.cosine_similarity(made[: len(known)], known).min() > 0.9

    def test_writes_model_cards(self, out: Path) -> None:
        for name in ("shapes-flux-2", "shapes-clip-2"):
            assert "Start: the weights of `shapes-flux`" in (out / name / "README.md").read_text()
        assert json.loads((out / "records" / "scores.json").read_text())["renders"]["overall"] >= 0.99


class TestReproducibility:
    @pytest.mark.parametrize("stage", ["clip", "autoencoder", "flow"])
    def test_same_seed_gives_the_same_weights(self, stage: str, tmp_path: Path) -> None:
        digests = []
        for name in ("first", "second"):
            out = tmp_path / name
            for needed in {"flow": ["clip", "autoencoder"]}.get(stage, []):
                STAGES[needed](TINY, out, "cpu")
            # Other uses of random numbers in this process have no effect.
            torch.rand(3)
            STAGES[stage](TINY, out, "cpu")
            weights = sorted(out.rglob("*.safetensors"))
            digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in weights])
        assert digests[0] == digests[1]


class TestStage:
    def train(self, out: Path, fails_at: int | None = None) -> torch.Tensor:
        """The weights after three steps; the loss of one step may raise an error."""
        stage = Stage("clip", TINY, out, "cpu", seed=1)
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 1)
        steps = []

        def loss() -> torch.Tensor:
            steps.append(0)
            if len(steps) == fails_at:
                raise KeyboardInterrupt
            return model(torch.randn(8, 4, generator=stage.generator)).square().mean()

        stage.train([model], loss, checkpoint_steps=1)
        stage.finish()
        return model.weight.detach()

    def test_interrupted_stage_resumes_with_the_same_result(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            self.train(tmp_path / "interrupted", fails_at=3)
        assert torch.equal(self.train(tmp_path / "interrupted"), self.train(tmp_path / "whole"))
        resumed, whole = (read_record(tmp_path / name, "clip") for name in ("interrupted", "whole"))
        assert resumed["loss"] == whole["loss"]

    def test_finished_stage_leaves_no_checkpoint(self, tmp_path: Path) -> None:
        self.train(tmp_path)
        assert not list(tmp_path.rglob("*.pt"))


class TestBasicScenes:
    def test_no_heldout_caption_is_seen(self) -> None:
        assert not any(map(is_heldout, BasicScenes(200, seed=0).captions))

    def test_neighbors_differ_in_meaning(self) -> None:
        told = BasicScenes(200, seed=0).captions
        for one, other in zip(told[::2], told[1::2], strict=True):
            assert caption(canonical(parse(one))) != caption(canonical(parse(other)))


class TestBenchScenes:
    def test_no_caption_of_the_benchmark_and_none_held_out_is_seen(self) -> None:
        assert {part_of(text) for text in BenchScenes(100, seed=0).captions} == {Part.TRAIN}

    def test_neighbors_differ_in_one_thing(self) -> None:
        told = [parse(text) for text in BenchScenes(50, seed=1).captions]
        for one, other in zip(told[::2], told[1::2], strict=True):
            assert other in [sentence for _, sentence in alterations(one)]
