"""Catalog entries: defaults, bounds and derived values."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.contracts.catalog import Catalog, JudgeEntry, ModelEntry, RewardEntry, load_catalog

SD3 = {
    "name": "small-sd3",
    "family": "sd3",
    "source": {"directory": "/models/small"},
    "steps": 28,
    "shift": 3.0,
    "guidance": 4.5,
    "width": 1024,
    "height": 1024,
    "max_size": 1440,
    "parameters": 2_000_000_000,
}


@pytest.mark.parametrize(
    ("family", "guidance", "passes"), [("sd3", 4.5, 2), ("sd3", 1.01, 2), ("sd3", 1.0, 1), ("flux", 4.5, 1)]
)
def test_classifier_free_guidance_doubles_the_passes(family: str, guidance: float, passes: int) -> None:
    assert ModelEntry.model_validate({**SD3, "family": family}).passes(guidance) == passes


@pytest.mark.parametrize(
    ("given", "blocks"), [({"hidden_size": 1536}, 24), ({"hidden_size": 1536, "blocks": 5}, 5), ({}, 19)]
)
def test_defaults_of_stable_diffusion_derive_from_hidden_size(given: dict[str, Any], blocks: int) -> None:
    entry = ModelEntry.model_validate({**SD3, **given})
    assert (entry.blocks, entry.single_blocks, entry.encoder_parameters) == (blocks, 0, 5_580_620_800)


def test_attention_and_feed_forward_layers_get_a_lora() -> None:
    feed_forward = {"ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"}
    attention = {"to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"}
    assert set(ModelEntry.model_validate(SD3).lora_targets) == feed_forward | attention
    flux = ModelEntry.model_validate({**SD3, "family": "flux"})
    assert set(flux.lora_targets) == feed_forward | attention | {"proj_mlp", "proj_out"}


def test_entries_can_be_validated_again() -> None:
    catalog = load_catalog()
    again = Catalog(
        models=catalog.models, rewards=catalog.rewards, prompt_sets=catalog.prompt_sets, judges=catalog.judges
    )
    assert again == catalog


def test_a_model_that_is_not_an_object_is_refused() -> None:
    with pytest.raises(ValidationError) as refusal:
        ModelEntry.model_validate("flux")
    (error,) = refusal.value.errors()
    assert (error["type"], error["input"]) == ("model_type", "flux")


def test_a_unified_reward_has_equal_axes_by_default() -> None:
    values = {"name": "unified", "kind": "unified_reward", "url": "http://judge/v1", "model": "unified"}
    entry = RewardEntry.model_validate(values)
    assert entry.form == "axes"
    assert entry.axes == {"alignment": 1.0, "coherence": 1.0, "style": 1.0}


@pytest.mark.parametrize("lacking", ["url", "model"])
def test_a_unified_reward_without_its_server_is_refused(lacking: str) -> None:
    values = {"name": "unified", "kind": "unified_reward", "url": "http://judge/v1", "model": "unified"}
    with pytest.raises(ValidationError, match=f"needs a `{lacking}`"):
        RewardEntry.model_validate({name: value for name, value in values.items() if name != lacking})


def test_a_reward_of_an_http_server_needs_no_model() -> None:
    assert RewardEntry.model_validate({"name": "mine", "kind": "http", "url": "http://mine"}).remote


@pytest.mark.parametrize(("span", "rises"), [([0.0, 1.0], True), ([1.0, 1.0], False), ([1.0, 0.0], False)])
def test_a_range_must_be_ascending(span: list[float], rises: bool) -> None:
    values = {"name": "mine", "kind": "http", "url": "http://mine", "range": span}
    if rises:
        assert RewardEntry.model_validate(values).normalized(0.25) == 0.25
        return
    with pytest.raises(ValidationError, match="must be ascending"):
        RewardEntry.model_validate(values)


@pytest.mark.parametrize(("seconds", "allowed"), [(0.0, True), (0.5, True), (-0.5, False)])
def test_the_patience_of_a_judge_is_not_negative(seconds: float, allowed: bool) -> None:
    values = {"name": "judge", "kind": "perception", "patience_seconds": seconds}
    if allowed:
        assert JudgeEntry.model_validate(values).patience_seconds == seconds
        return
    with pytest.raises(ValidationError, match="patience_seconds"):
        JudgeEntry.model_validate(values)


@pytest.mark.parametrize(
    ("field", "lowest"),
    [
        ("blocks", 1),
        ("single_blocks", 0),
        ("dual_attention_blocks", 0),
        ("token_pixels", 1),
        ("out_channels", 1),
        ("encoder_parameters", 0),
        ("decoder_parameters", 0),
        ("seconds_per_decode", 0),
        ("seconds_per_update", 0),
    ],
)
def test_lowest_sizes_of_a_model(field: str, lowest: int) -> None:
    assert getattr(ModelEntry.model_validate({**SD3, field: lowest}), field) == lowest
    with pytest.raises(ValidationError, match=field):
        ModelEntry.model_validate({**SD3, field: lowest - 1})


@pytest.mark.parametrize(
    ("field", "lowest", "highest"), [("parameters", 0, None), ("seconds_per_image", 0, None), ("batch_size", 1, 256)]
)
def test_bounds_of_the_sizes_of_a_reward(field: str, lowest: int, highest: int | None) -> None:
    values = {"name": "mine", "kind": "http", "url": "http://mine"}
    for allowed in (lowest, highest or 10**9):
        assert getattr(RewardEntry.model_validate({**values, field: allowed}), field) == allowed
    for refused in [lowest - 1] + ([highest + 1] if highest else []):
        with pytest.raises(ValidationError, match=field):
            RewardEntry.model_validate({**values, field: refused})
