"""The parts of a plan: seconds by part, and bytes per scored image."""

import re
from pathlib import Path
from typing import Any

import pytest

from service.contracts.catalog import Catalog, load_catalog
from service.contracts.plan import Plan, duration, heldout_pairs, make_plan
from service.contracts.presets import merge
from service.contracts.runs import RunSpec

FLUX = load_catalog(Path(__file__).parents[3] / "docs" / "reference" / "catalogs" / "flux.yaml")
OTHER = [{"name": "shapes_verifier"}]
SECONDS = {"d": 86400, "h": 3600, "min": 60, "s": 1}
RATES = {"seconds_per_nfe": 0.1, "seconds_per_update": 10.0, "seconds_per_decode": 1.0, "measured_on": "a card"}
SMALL: dict[str, Any] = {
    "model": "sd-3.5-medium",
    "preset": "paper-lora",
    "sampling": {"width": 1024, "height": 1024, "compile": False},
    "training": {"max_steps": 3, "prompts_per_step": 2, "gradient_checkpointing": False},
    "heldout": {"every": 0},
}


def rated(**changes: Any) -> Catalog:
    """The catalog for FLUX, with rates for Stable Diffusion 3.5 medium."""
    models = tuple(
        model.model_copy(update={**RATES, **changes}) if model.name == SMALL["model"] else model
        for model in FLUX.models
    )
    return FLUX.model_copy(update={"models": models})


def planned(catalog: Catalog, **changes: Any) -> Plan:
    return make_plan(RunSpec.model_validate(merge(SMALL, changes)), catalog)


def seconds(plan: Plan) -> dict[str, float]:
    """Seconds by part, parsed from `seconds_basis`."""
    parts = re.findall(r"(\w+) ((?:\d+ (?:d|h|min|s)\b ?)+)", plan.seconds_basis)
    return {
        part: sum(float(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+) (\w+)", text))
        for part, text in parts
    }


@pytest.mark.parametrize(("guidance", "passes"), [(1.0, 1), (4.5, 2)])
def test_update_seconds_count_every_pass_of_every_trained_state(guidance: float, passes: int) -> None:
    plan = planned(rated(), sampling={"guidance": guidance})
    assert seconds(plan)["updates"] == 10.0 * 3 * 2 * 8 * passes
    assert plan.per_step_updates == 2 * 8 * passes
    recomputed = planned(rated(), sampling={"guidance": guidance}, training={"gradient_checkpointing": True})
    assert seconds(recomputed)["updates"] == 1.6 * seconds(plan)["updates"]


def test_the_basis_lists_parts_with_and_without_a_rate() -> None:
    assert list(seconds(planned(rated()))) == ["sampling", "decoding", "rewards", "updates"]
    without = planned(rated(seconds_per_update=None, seconds_per_decode=None))
    assert list(seconds(without)) == ["sampling", "rewards"]
    assert without.seconds_basis.endswith("without decoding and updates")


def test_the_basis_contains_the_factor_of_another_size() -> None:
    smaller = planned(rated(), sampling={"width": 512, "height": 512})
    share = re.search(r", times (\d\.\d\d) for the image's size", smaller.seconds_basis)
    own = planned(rated())
    assert share is not None and "times" not in own.seconds_basis
    assert seconds(smaller)["updates"] == pytest.approx(float(share[1]) * seconds(own)["updates"], rel=0.02)


@pytest.mark.parametrize("catalog", [rated(seconds_per_nfe=None), FLUX.model_copy(update={"models": ()})])
def test_without_a_rate_there_are_no_seconds(catalog: Catalog) -> None:
    plan = planned(catalog)
    assert (plan.seconds, plan.seconds_basis) == (None, "no measured rate in the catalog")


def test_uploaded_prompt_sets_cause_no_warning() -> None:
    spec = RunSpec.model_validate({"prompts": {"set": "mine"}})
    assert any("'mine'" in warning for warning in make_plan(spec, load_catalog()).warnings)
    assert make_plan(spec, load_catalog(), ["mine"]).warnings == make_plan(RunSpec(), load_catalog()).warnings


@pytest.mark.parametrize("batch", [1, 4])
def test_scoring_memory_counts_decoder_and_rewards_per_image(batch: int) -> None:
    """Bytes per image: decoder tensors with 128 channels in bfloat16, two float32 images, and 50 MB in a ViT."""
    pixels = 1024 * 1024
    scored = planned(rated(), sampling={"decode_batch_size": batch})
    assert scored.memory is not None
    (phase,) = (phase for phase in scored.memory.phases if phase.phase == "scoring")
    assert phase.parts["activations"] == batch * (10 * 128 * pixels * 2 + 2 * 3 * pixels * 4 + 50_000_000)


def test_rewards_of_small_images_need_no_extra_memory() -> None:
    spec = RunSpec.model_validate({"sampling": {"decode_batch_size": 3}})
    memory = make_plan(spec, load_catalog()).memory
    assert memory is not None
    (phase,) = (phase for phase in memory.phases if phase.phase == "scoring")
    assert phase.parts["activations"] == 3 * (10 * 128 * 32 * 32 * 4 + 2 * 3 * 32 * 32 * 4)


@pytest.mark.parametrize(("largest", "size"), [(64, 4), (65, 2)])
def test_models_of_more_than_64_pixels_use_bfloat16_encoders_and_large_rewards(largest: int, size: int) -> None:
    catalog = load_catalog()
    model = catalog.model("shapes-flux").model_copy(update={"max_size": largest, "dtype": "auto"})
    memory = make_plan(RunSpec(), catalog.model_copy(update={"models": (model,)})).memory
    assert memory is not None
    phases = {phase.phase: phase.parts for phase in memory.phases}
    assert phases["rollout"]["weights"] == model.parameters * size
    assert ("text encoders" in phases["encoding"]) is (largest == 65)
    scored = 50_000_000 if largest == 65 else 0
    assert phases["scoring"]["activations"] == 96 * (10 * 128 * 32 * 32 * size + 2 * 3 * 32 * 32 * 4 + scored)


def test_only_the_rewards_of_the_run_need_memory() -> None:
    catalog = load_catalog()
    clip = catalog.reward("clip_score")
    for spec, expected in (({"rewards": [{"name": "clip_score"}]}, clip.parameters), ({"rewards": OTHER}, 0)):
        memory = make_plan(RunSpec.model_validate(spec), catalog).memory
        assert memory is not None
        assert memory.phases[1].parts.get("rewards", 0) == 4 * (expected or 0)


def test_adapted_layers_of_stable_diffusion_store_image_or_text_tokens() -> None:
    """Layers of the text stream (`add_…`, `ff_context`) process text tokens, and the others image tokens."""
    model = rated().model("sd-3.5-medium")
    image, text, width = 64 * 64, model.text_length, model.hidden_size
    both = model.blocks - 1  # the last block has no feed-forward layer and no attention output for the text
    attention = width * (model.blocks * (4 * image + 3 * text) + both * text)
    feed_forward = 5 * width * (model.blocks * image + both * text)
    plan = planned(rated(), sampling={"guidance": 1.0}, training={"update_batch_size": 1})
    assert plan.memory is not None
    (phase,) = (phase for phase in plan.memory.phases if phase.phase == "update")
    dual = 0 if "attn2.to_q" in model.lora_targets else model.dual_attention_blocks * 4 * image * width
    assert phase.parts["adapter's inputs"] == 4 * (attention + feed_forward + dual)


def test_disk_space_of_group_images_is_bounded_by_pixels_and_by_the_limit() -> None:
    images = 4 * 12 * 3 + 1  # SDE steps, group size, granularities, and the anchor
    evaluations = 45 // 5
    assert make_plan(RunSpec(), load_catalog()).group_image_bytes == 3 * 32 * 32 * images * evaluations
    assert (
        make_plan(RunSpec.model_validate({"heldout": {"group_images_mib": 1}}), load_catalog()).group_image_bytes
        == 2**20
    )
    assert make_plan(RunSpec.model_validate({"heldout": {"every": 0}}), load_catalog()).group_image_bytes == 0


def test_a_plan_names_each_field_that_the_catalog_lacks() -> None:
    spec = {"model": "a", "rewards": [{"name": "b"}], "prompts": {"set": "c"}}
    plan = make_plan(RunSpec.model_validate({**spec, "heldout": {"prompts": "d", "rewards": ["e"]}}), load_catalog())
    unknown = [warning.partition(" is not in")[0] for warning in plan.warnings if "would be refused" in warning]
    assert unknown == ["model: 'a'", "heldout.prompts: 'd'", "rewards: 'b'", "heldout.rewards: 'e'", "prompts.set: 'c'"]


def test_the_cost_per_prompt_is_that_of_the_first_step() -> None:
    window = {"size": 2, "every": 1}
    plan = make_plan(RunSpec.model_validate({"algorithm": {"name": "mix_grpo", "window": window}}), load_catalog())
    assert (plan.per_prompt.anchor, plan.naive_per_prompt.anchor) == (0, 0)  # the window starts at the first step


def test_float32_layers_store_no_copies_of_their_inputs() -> None:
    memory = make_plan(RunSpec(), load_catalog()).memory
    assert memory is not None
    assert "adapter's inputs" not in memory.phases[-1].parts


@pytest.mark.parametrize(("final", "expected"), [(8, [8, 3, 8]), (2, [3, 3, 3]), (0, [3, 3, 3])])
def test_the_first_and_last_evaluation_have_at_least_the_pairs_of_a_point(final: int, expected: list[int]) -> None:
    heldout = {"every": 2, "pairs": 3, "final_pairs": final}
    assert heldout_pairs(RunSpec.model_validate({"training": {"max_steps": 4}, "heldout": heldout})) == expected


@pytest.mark.parametrize(("recomputed", "each_block", "once"), [(False, 16.6, 0), (True, 1, 28.5)])
def test_activations_of_an_update_are_multiples_of_tokens_and_width(
    recomputed: bool, each_block: float, once: float
) -> None:
    changes = {"preset": "paper-lora", "training": {"gradient_checkpointing": recomputed, "update_batch_size": 2}}
    memory = make_plan(RunSpec.model_validate(changes), FLUX).memory
    assert memory is not None
    activation = (45 * 45 + 512) * 3072 * 2
    assert memory.phases[-1].parts["activations"] == int(2 * (57 * each_block + once) * activation)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (768, "12 min 48 s"),
        (3599.9, "1 h"),
        (5400, "1 h 30 min"),
        (86_399, "1 d"),
        (601_200, "6 d 23 h"),
    ],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_run_of_more_than_a_day_has_a_warning() -> None:
    def warnings(seconds: float) -> list[str]:
        return [one for one in planned(rated(seconds_per_update=seconds)).warnings if "takes about" in one]

    assert warnings(10.0) == []
    (warning,) = warnings(86_400 / 48)
    assert warning.startswith("the run takes about 2 d 1 h;")
