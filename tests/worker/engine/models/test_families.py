"""Both model families compared with diffusers' pipelines, with tiny models in the published layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from service.contracts.catalog import ModelEntry
from service.contracts.schedule import sigma_nodes
from tests.worker.engine.models.tiny import KINDS, PROMPTS, SHIFT, TEXT_LENGTH, make
from worker.engine.grpo.noise import normal
from worker.engine.grpo.solvers import ode_trajectory
from worker.engine.models import FAMILIES, FlowModel, load_model
from worker.engine.models.base import ImageSize
from worker.engine.precision import resolve_dtype

CPU = torch.device("cpu")
SIZE = ImageSize(40, 24)
STEPS = 4
SEEDS = [1, 2, 3, 4]


@pytest.fixture(scope="module", params=KINDS)
def entry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelEntry:
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def plain(entry: ModelEntry) -> FlowModel:
    """A model that the tests do not change."""
    return loaded(entry)


@pytest.fixture
def model(entry: ModelEntry) -> FlowModel:
    return loaded(entry)


def loaded(entry: ModelEntry, dtype: torch.dtype = torch.float32) -> FlowModel:
    model = load_model(entry, CPU, dtype)
    assert isinstance(model, FlowModel)
    return model


@torch.no_grad()
def draw(model: FlowModel, prompts: list[str], seeds: list[int], guidance: float = 3.5) -> Tensor:
    velocity = model.velocity(model.encode(prompts), SIZE, guidance)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.cat([model.noise(lambda shape, g=g: torch.randn(shape, generator=g), SIZE) for g in generators])
    return model.decode(ode_trajectory(velocity, noise, sigma_nodes(STEPS, SHIFT), len(prompts)).end, SIZE)


def theirs(entry: ModelEntry, guidance: float = 3.5, lora: Path | None = None) -> Tensor:
    """The images of the diffusers pipeline, which shifts the uniform schedule itself."""
    absent = {"text_encoder_3": None, "tokenizer_3": None} if entry.name == "sd3-without-t5" else {}
    own = FAMILIES[entry.family].pipeline_class
    pipeline = own.from_pretrained(entry.source.directory, dtype=torch.float32, **absent)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(str(lora), weight_name="pytorch_lora_weights.safetensors")
    images: Tensor = pipeline(
        prompt=PROMPTS,
        width=SIZE.width,
        height=SIZE.height,
        sigmas=np.linspace(1.0, 1 / STEPS, STEPS).astype(np.float32),
        guidance_scale=guidance,
        max_sequence_length=TEXT_LENGTH,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images
    return images


def moved_lora(model: FlowModel) -> None:
    """A LoRA that changes the image."""
    for index, parameter in enumerate(model.train_lora(4, 8.0, seed=0)):
        parameter.data += 0.3 * normal(tuple(parameter.shape), 0, index)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_image_is_the_pipelines_own(plain: FlowModel, entry: ModelEntry, guidance: float) -> None:
    close(draw(plain, PROMPTS, SEEDS, guidance), theirs(entry, guidance))


def test_prompts_and_noise_decide_the_image(plain: FlowModel) -> None:
    images = draw(plain, [PROMPTS[0], PROMPTS[1], PROMPTS[0]], [1, 1, 2])
    assert (images[0] - images[1]).abs().max() > 1e-3
    assert (images[0] - images[2]).abs().max() > 1e-3


def test_guidance_counts_where_the_model_has_any(plain: FlowModel, entry: ModelEntry) -> None:
    change = (draw(plain, PROMPTS, SEEDS, 1.0) - draw(plain, PROMPTS, SEEDS, 3.5)).abs().max()
    assert change == 0.0 if entry.name == "flux-schnell" else change > 1e-4


def test_image_does_not_depend_on_its_batch(plain: FlowModel) -> None:
    together = draw(plain, PROMPTS, SEEDS)
    alone = [draw(plain, [prompt], [seed]) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    close(torch.cat(alone), together)


def test_its_size_is_that_of_all_its_weights(plain: FlowModel, entry: ModelEntry) -> None:
    assert entry.source.directory is not None
    files = [load_file(file) for file in Path(entry.source.directory).rglob("*.safetensors")]
    stored = sum(4 * tensor.numel() for weights in files for tensor in weights.values())
    assert plain.weight_bytes() == pytest.approx(stored, rel=0.02)  # some tables are computed, not stored


def test_packing_loses_nothing(plain: FlowModel) -> None:
    latents = normal((2, *plain.latent_shape(SIZE)), 0)
    packed = plain.pack(latents)
    assert tuple(packed.shape[1:]) == plain.packed_shape(SIZE)
    assert torch.equal(plain.unpack(packed, SIZE), latents)


def test_plain_diffusers_takes_a_saved_lora(model: FlowModel, entry: ModelEntry, tmp_path: Path) -> None:
    base = draw(model, PROMPTS, SEEDS)
    moved_lora(model)
    ours = draw(model, PROMPTS, SEEDS)
    model.save_trained(tmp_path)
    close(theirs(entry, lora=tmp_path), ours)
    assert (ours - base).abs().max() > 1e-3


def test_merged_sampling_is_the_same_policy(model: FlowModel) -> None:
    moved_lora(model)
    adapted = draw(model, PROMPTS, SEEDS)
    with model.sampling_weights():
        close(draw(model, PROMPTS, SEEDS), adapted)
    assert torch.equal(draw(model, PROMPTS, SEEDS), adapted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", [False, True])
def test_step_moves_the_lora_and_nothing_else(entry: ModelEntry, dtype: torch.dtype, recompute: bool) -> None:
    model = loaded(entry, dtype)
    if recompute:
        model.transformer.enable_gradient_checkpointing()
    base = {name: parameter.clone() for name, parameter in model.transformer.named_parameters()}
    before = draw(model, PROMPTS, SEEDS)
    parameters = model.train_lora(4, 4.0, seed=0)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    for _ in range(2):  # the matrix of a LoRA that starts at zero changes first
        optimizer.zero_grad()
        velocity = model.velocity(model.encode(PROMPTS), SIZE, 3.5)
        noise = normal((len(PROMPTS), *model.packed_shape(SIZE)), 0)
        velocity(noise, torch.full((len(PROMPTS),), 0.7), [0, 1, 2, 3]).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
        optimizer.step()
    assert (draw(model, PROMPTS, SEEDS) - before).abs().max() > 1e-3
    for name, parameter in model.transformer.named_parameters():
        if (original := name.replace(".base_layer", "")) in base:
            assert parameter.dtype == dtype
            assert torch.equal(parameter, base[original])


def test_every_weight_trained_is_saved_and_loaded(model: FlowModel, entry: ModelEntry, tmp_path: Path) -> None:
    for parameter in model.train_all():
        parameter.data *= 1.01
    model.save_trained(tmp_path)
    other = loaded(entry)
    other.load_trained(tmp_path)
    assert torch.equal(draw(other, PROMPTS, SEEDS), draw(model, PROMPTS, SEEDS))


def test_unknown_word_is_named(plain: FlowModel) -> None:
    with pytest.raises(ValueError, match="does not know dinosaur"):
        plain.encode(["a small red dinosaur"])


def test_size_off_the_grid_is_refused(plain: FlowModel) -> None:
    with pytest.raises(ValueError, match="multiples of 4 pixels"):
        plain.latent_shape(ImageSize(38, 32))


def test_image_wider_than_its_positions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="maximum of 48 pixels"):
        loaded(make("sd3", tmp_path)).latent_shape(ImageSize(52, 32))


def test_catalog_may_say_in_what_a_model_computes(entry: ModelEntry) -> None:
    cuda = torch.device("cuda")
    assert (resolve_dtype(entry.dtype, CPU), resolve_dtype(entry.dtype, cuda)) == (torch.float32, torch.bfloat16)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        asked = entry.model_copy(update={"dtype": name})
        assert {resolve_dtype(asked.dtype, CPU), resolve_dtype(asked.dtype, cuda)} == {dtype}
