"""Memory estimates match measurements, count all parts, and decrease with settings that save memory."""

from pathlib import Path
from typing import Any

import pytest

from service.contracts.catalog import load_catalog
from service.contracts.memory import Memory, lora_parameters, targeted
from service.contracts.plan import make_plan
from service.contracts.presets import PRESETS, merge
from service.contracts.runs import RunSpec

FLUX = load_catalog(Path(__file__).parents[3] / "docs" / "reference" / "catalogs" / "flux.yaml")
H100 = 81_559 * 2**20
"""Memory of an 80 GB H100 according to nvidia-smi."""


def planned(**changes: Any) -> Memory:
    spec = RunSpec.model_validate({"preset": "paper-lora", **changes})
    memory = make_plan(spec, FLUX).memory
    assert memory is not None
    return memory


def parts(memory: Memory, phase: str) -> dict[str, int]:
    return next(one.parts for one in memory.phases if one.phase == phase)


@pytest.mark.parametrize(
    ("batch", "checkpointing", "measured"), [(1, True, 25.7e9), (4, True, 29.7e9), (1, False, 39.1e9)]
)
def test_the_update_is_within_ten_percent_of_measurements_on_an_h100(
    batch: int, checkpointing: bool, measured: float
) -> None:
    """FLUX.1-dev at 720×720: transformer, a small LoRA, its gradients, activations; nothing else was on the GPU."""
    update = parts(planned(training={"update_batch_size": batch, "gradient_checkpointing": checkpointing}), "update")
    there = sum(update[name] for name in ("weights", "adapter", "gradients", "activations"))
    assert there == pytest.approx(measured, rel=0.1)


def test_the_papers_run_with_a_lora_fits_one_gpu_of_80_gb() -> None:
    assert 60e9 < planned().total < H100
    assert planned(training={"gradient_checkpointing": False}).total > H100  # a float32 adapter on every layer


def test_every_adapted_layer_stores_its_input_in_float32() -> None:
    """Input widths of FLUX.1-dev's layers: query, key, value, output, and two feed-forward layers."""
    whole, one_block = (
        parts(planned(training={"gradient_checkpointing": recomputed}), "update")["adapter's inputs"]
        for recomputed in (False, True)
    )
    tokens, width = 45 * 45 + 512, 3072
    ending = 45 * 45 * width  # the last layer of the transformer is adapted too, and processes only image tokens
    assert whole == 4 * ((19 + 38) * (3 + 1 + 1 + 4) * tokens * width + ending)
    assert one_block == whole // 57


def test_all_weights_fit_no_single_gpu() -> None:
    assert planned(preset="paper").total > 190e9


@pytest.mark.parametrize(
    ("name", "adapter", "replaced"),
    [
        ("flux-1-dev", 261_689_344, 8_606_908_416),
        ("sd-3.5-medium", 93_978_624, 1_460_404_224),
        ("sd-3.5-large", 211_058_688, 5_340_905_472),
    ],
)
def test_lora_parameters_match_the_layers(name: str, adapter: int, replaced: int) -> None:
    """The parameter counts equal the counts of diffusers' models with these shapes."""
    model = FLUX.model(name)
    assert lora_parameters(model, 64) == adapter
    assert sum(inner * outer for _, inner, outer in targeted(model)) == replaced


@pytest.mark.parametrize(
    ("changes", "phase"),
    [
        ({"training": {"gradient_checkpointing": True}}, "update"),
        ({"training": {"lora_rank": 16}}, "update"),
        ({"sampling": {"decode_batch_size": 1}}, "scoring"),
        ({"sampling": {"rollout_batch_size": 4}}, "rollout"),
        ({"sampling": {"width": 512, "height": 512}}, "update"),
        ({"training": {"prompts_per_step": 8}}, "rollout"),
        ({"resources": {"offload_rewards": True}}, "update"),
        ({"resources": {"processes_per_node": 4}}, "update"),
    ],
)
def test_options_that_save_memory_reduce_the_estimate(changes: dict[str, Any], phase: str) -> None:
    otherwise = {"training": {"gradient_checkpointing": False}}
    saving = merge(otherwise, changes)
    assert sum(parts(planned(**saving), phase).values()) < sum(parts(planned(**otherwise), phase).values())


def test_offloaded_rewards_use_memory_only_while_scoring() -> None:
    memory = planned(resources={"offload_rewards": True})
    assert [one.phase for one in memory.phases if "rewards" in one.parts] == ["scoring"]


def test_all_weights_are_sharded_over_processes() -> None:
    alone, shared = planned(preset="paper"), planned(preset="paper", resources={"processes_per_node": 8})
    moments = (parts(memory, "update")["optimizer moments"] for memory in (alone, shared))
    assert next(moments) == pytest.approx(8 * next(moments), rel=1e-6)


def test_the_peak_is_the_largest_phase() -> None:
    memory = planned()
    assert memory.total == max(one.total for one in memory.phases) == memory.peak_phase.total
    assert all(one.total == sum(one.parts.values()) for one in memory.phases)


def test_every_preset_resolves_against_the_catalog_for_flux() -> None:
    for preset in PRESETS:
        warnings = make_plan(RunSpec(preset=preset), FLUX).warnings
        assert not [one for one in warnings if "is not in this server's catalog" in one], preset


def test_compiled_continuations_have_a_separate_rate() -> None:
    step = {"preset": "paper-lora", "training": {"max_steps": 1}, "heldout": {"every": 0}}
    plain, compiled = (
        make_plan(RunSpec.model_validate({**step, "sampling": {"compile": compile}}), FLUX) for compile in (False, True)
    )
    assert plain.seconds - compiled.seconds == pytest.approx(16 * 1692 * (0.0935 - 0.0646))


def test_seconds_are_divided_by_processes_and_listed_by_part() -> None:
    alone = make_plan(RunSpec(preset="paper-lora"), FLUX)
    four = make_plan(RunSpec.model_validate({"preset": "paper-lora", "resources": {"processes_per_node": 4}}), FLUX)
    assert alone.seconds == pytest.approx(4 * four.seconds)
    assert all(part in alone.seconds_basis for part in ("sampling", "decoding", "rewards", "updates"))
