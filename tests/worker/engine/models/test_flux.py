"""The FLUX adapter compared with diffusers' pipeline, with the bundled model."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.contracts.attempt_files import CheckpointManifest
from service.contracts.catalog import load_catalog
from service.contracts.schedule import sigma_nodes
from worker.engine.grpo.noise import normal
from worker.engine.grpo.solvers import ode_trajectory
from worker.engine.models import load_model, lora
from worker.engine.models.base import ImageSize
from worker.engine.models.flux import FluxModel
from worker.engine.models.sources import locate
from worker.shapes.caption_sampling import heldout_prompts

SIZE = ImageSize(32, 32)
ENTRY = load_catalog().model("shapes-flux")
PROMPTS = list(heldout_prompts()[:4])


@pytest.fixture
def model() -> FluxModel:
    loaded = load_model(ENTRY, torch.device("cpu"), torch.float32)
    assert isinstance(loaded, FluxModel)
    return loaded


def noise(model: FluxModel, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return model.noise(lambda shape: torch.randn(shape, generator=generator), SIZE)


@torch.no_grad()
def draw(model: FluxModel, prompts: list[str], seeds: list[int]) -> Tensor:
    velocity = model.velocity(model.encode(prompts), SIZE, 3.5)
    start = torch.cat([noise(model, seed) for seed in seeds])
    return model.decode(ode_trajectory(velocity, start, sigma_nodes(8, 3.0), len(prompts)).end, SIZE)


def pipeline_images(pipeline: FluxPipeline, prompts: list[str], seeds: list[int]) -> Tensor:
    result = pipeline(
        prompt=prompts,
        width=32,
        height=32,
        num_inference_steps=8,
        guidance_scale=3.5,
        max_sequence_length=ENTRY.text_length,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
    )
    return result.images


def plain_pipeline() -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(locate(ENTRY.source)[0], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def moved_lora(model: FluxModel, rank: int = 4, alpha: float = 8.0) -> None:
    """A LoRA that changes the image."""
    for index, parameter in enumerate(model.train_lora(rank, alpha, seed=0)):
        parameter.data += 0.05 * normal(tuple(parameter.shape), 0, index)


def manifest(model: FluxModel, **values: object) -> CheckpointManifest:
    return CheckpointManifest(
        model="shapes-flux", architecture=model.architecture(), step=1, spec=None, files=(), **values
    )


def test_image_is_the_pipelines_own(model: FluxModel) -> None:
    torch.testing.assert_close(
        draw(model, PROMPTS, [1, 2, 3, 4]),
        pipeline_images(plain_pipeline(), PROMPTS, [1, 2, 3, 4]),
        rtol=0,
        atol=1e-5,
    )


def test_saved_lora_gives_plain_diffusers_our_image(model: FluxModel, tmp_path: Path) -> None:
    base = draw(model, PROMPTS, [1, 2, 3, 4])
    moved_lora(model)
    ours = draw(model, PROMPTS, [1, 2, 3, 4])
    model.save_trained(tmp_path)

    pipeline = plain_pipeline()
    pipeline.load_lora_weights(str(tmp_path), weight_name="pytorch_lora_weights.safetensors")

    theirs = pipeline_images(pipeline, PROMPTS, [1, 2, 3, 4])
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    assert (ours - base).abs().max() > 0.05


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_lora_with_nonfinite_values_is_refused_by_name(model: FluxModel, tmp_path: Path, value: float) -> None:
    moved_lora(model)
    model.save_trained(tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[-1]
    tensors[name][-1, -1] = value
    save_file(tensors, file)
    with pytest.raises(ValueError, match=f"{name.removeprefix('transformer.')} has NaN or infinite values"):
        lora.load(model.transformer, tmp_path)


def test_fresh_lora_changes_nothing(model: FluxModel) -> None:
    base = draw(model, PROMPTS, [1, 2, 3, 4])
    model.train_lora(16, 16.0, seed=3)
    assert torch.equal(draw(model, PROMPTS, [1, 2, 3, 4]), base)


def test_initial_lora_depends_on_its_seed_alone() -> None:
    def initial(seed: int) -> list[Tensor]:
        torch.randn(3)  # other uses of the generator have no effect
        return load_model(ENTRY, torch.device("cpu"), torch.float32).train_lora(8, 8.0, seed)

    assert all(torch.equal(a, b) for a, b in zip(initial(1), initial(1), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(initial(1), initial(2), strict=True))


def test_merged_sampling_is_the_same_policy_and_leaves_no_trace(model: FluxModel) -> None:
    moved_lora(model)
    adapted = draw(model, PROMPTS, [1, 2, 3, 4])
    with model.sampling_weights():
        merged = draw(model, PROMPTS, [1, 2, 3, 4])
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-4)
    assert torch.equal(draw(model, PROMPTS, [1, 2, 3, 4]), adapted)


def test_weights_are_restored_when_sampling_ends(model: FluxModel) -> None:
    moved_lora(model)
    adapted = draw(model, PROMPTS, [1, 2, 3, 4])
    with pytest.raises(RuntimeError, match="in the middle"), model.sampling_weights():
        raise RuntimeError("in the middle")
    assert torch.equal(draw(model, PROMPTS, [1, 2, 3, 4]), adapted)


def test_in_bfloat16_faithful_sampling_keeps_the_smallest_update() -> None:
    model = load_model(ENTRY, torch.device("cpu"), torch.bfloat16)
    assert isinstance(model, FluxModel)
    pristine = {name: p.clone() for name, p in model.transformer.named_parameters()}
    moved_lora(model)
    with model.sampling_weights(faithful=True):
        faithful = draw(model, PROMPTS, [1, 2, 3, 4])
    assert torch.equal(faithful, draw(model, PROMPTS, [1, 2, 3, 4]))
    with model.sampling_weights():
        pass
    for name, parameter in model.transformer.named_parameters():
        if (base := name.replace(".base_layer", "")) in pristine:
            assert torch.equal(parameter, pristine[base])


def test_checkpoints_weights_leave_the_base_as_it_was(model: FluxModel, tmp_path: Path) -> None:
    base = draw(model, PROMPTS, [1, 2, 3, 4])
    trained = load_model(ENTRY, torch.device("cpu"), torch.float32)
    assert isinstance(trained, FluxModel)
    moved_lora(trained)
    trained.save_trained(tmp_path / "lora")
    full = load_model(ENTRY, torch.device("cpu"), torch.float32)
    for parameter in full.train_all():
        parameter.data *= 1.01
    full.save_trained(tmp_path / "full")

    lora_manifest = manifest(model, kind="lora", lora_rank=4, lora_alpha=8.0)
    with model.checkpoint_weights(tmp_path / "lora", lora_manifest):
        torch.testing.assert_close(
            draw(model, PROMPTS, [1, 2, 3, 4]), draw(trained, PROMPTS, [1, 2, 3, 4]), rtol=0, atol=1e-4
        )
    assert torch.equal(draw(model, PROMPTS, [1, 2, 3, 4]), base)
    with model.checkpoint_weights(tmp_path / "full", manifest(model, kind="full")):
        assert torch.equal(draw(model, PROMPTS, [1, 2, 3, 4]), draw(full, PROMPTS, [1, 2, 3, 4]))
    assert torch.equal(draw(model, PROMPTS, [1, 2, 3, 4]), base)


def test_checkpoint_of_another_architecture_is_refused(model: FluxModel, tmp_path: Path) -> None:
    foreign = manifest(model, kind="lora", lora_rank=4, lora_alpha=4.0).model_copy(update={"architecture": "other"})
    with pytest.raises(ValueError, match="architecture other"), model.checkpoint_weights(tmp_path, foreign):
        pass


def test_lora_of_another_rank_is_refused(model: FluxModel, tmp_path: Path) -> None:
    moved_lora(model, rank=4)
    model.save_trained(tmp_path)
    other = load_model(ENTRY, torch.device("cpu"), torch.float32)
    other.train_lora(8, 8.0, seed=0)
    with pytest.raises(ValueError, match="of another shape"):
        other.load_trained(tmp_path)


def test_embedding_does_not_depend_on_its_company(model: FluxModel) -> None:
    alone, together = model.encode(PROMPTS[:1]), model.encode(PROMPTS)
    assert torch.equal(alone.sequence[0], together.sequence[0])
    assert torch.equal(alone.pooled[0], together.pooled[0])


def test_unknown_word_is_named(model: FluxModel) -> None:
    with pytest.raises(ValueError, match="does not know dinosaur"):
        model.encode(["a small red dinosaur on white"])


def test_size_off_the_grid_is_refused(model: FluxModel) -> None:
    with pytest.raises(ValueError, match="multiples of 8 pixels"):
        model.latent_shape(ImageSize(36, 32))
