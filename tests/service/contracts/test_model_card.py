"""Model cards: the weights, their training and held-out values, and code for each form of export."""

from typing import Any

import pytest

from service.contracts.attempt_files import CheckpointManifest
from service.contracts.catalog import ModelEntry, load_catalog
from service.contracts.model_card import Form, card
from service.contracts.runs import RunSpec

ENTRY = load_catalog().model("shapes-flux")


def manifest(**changes: Any) -> CheckpointManifest:
    spec = RunSpec.model_validate({"rewards": [{"name": "clip_score", "weight": 0.5}], **changes})
    values = {"model": "mine", "architecture": "a", "kind": "lora", "step": 7, "lora_rank": 4, "lora_alpha": 8.0}
    return CheckpointManifest.model_validate({**values, "spec": spec.model_dump(mode="json"), "files": []})


def entry(**changes: Any) -> ModelEntry:
    return ModelEntry.model_validate({**ENTRY.model_dump(), **changes})


@pytest.mark.parametrize(
    ("prompts", "source"), [({"set": "shapes-train"}, "the set `shapes-train`"), ({"items": ["a", "b"]}, "a list of 2")]
)
def test_the_training_is_a_table(prompts: dict[str, Any], source: str) -> None:
    lines = card(manifest(prompts=prompts, training={"seed": 5}), None, "lora", {}).splitlines()
    assert lines[:3] == [
        "# mine, step 7",
        "",
        "A checkpoint of G²RPO: a LoRA of rank 4 and alpha 8 for the base model `mine`.",
    ]
    begin = lines.index("## Training")
    assert lines[begin + 2 :] == [
        "| | |",
        "|---|---|",
        "| algorithm | g2rpo |",
        "| optimizer steps | 7 |",
        "| reward | clip_score, weight 0.5 |",
        f"| prompts | {source} |",
        "| seed | 5 |",
        "",
        "Full spec: [spec.json](spec.json).",
    ]


def test_imported_weights_have_no_training() -> None:
    imported = manifest().model_copy(update={"spec": None, "kind": "full"})
    text = card(imported, ENTRY, "transformer", {})
    assert "all weights of the transformer" in text and "their training is unknown" in text
    assert "## Training" not in text and "## Held-out" not in text


def test_held_out_values_are_a_table() -> None:
    values = {
        "a": {"before": 0.25, "after": 0.5, "interval95": [0.125, 0.375], "pairs": 64},
        "b": {"before": 1.0, "after": 0.5},
    }
    rows = [line for line in card(manifest(), None, "lora", values).splitlines() if line.startswith("| ")]
    assert rows[-2:] == [
        "| a | 0.2500 | 0.5000 | +0.2500 | +0.1250 to +0.3750 | 64 |",
        "| b | 1.0000 | 0.5000 | -0.5000 | computed at the end of the run |  |",
    ]


@pytest.mark.parametrize(
    ("form", "classes", "needed", "loading"),
    [
        (
            "lora",
            "DiffusionPipeline",
            "diffusers and peft",
            [
                'base = "worker/shapes/weights/shapes-flux"',
                "pipeline = DiffusionPipeline.from_pretrained(base, dtype=torch.float32)",
                'pipeline.load_lora_weights(".", weight_name="pytorch_lora_weights.safetensors")',
            ],
        ),
        (
            "transformer",
            "AutoModel, DiffusionPipeline",
            "diffusers",
            [
                'base = "worker/shapes/weights/shapes-flux"',
                'transformer = AutoModel.from_pretrained(".", subfolder="transformer", dtype=torch.float32)',
                "pipeline = DiffusionPipeline.from_pretrained(base, transformer=transformer, dtype=torch.float32)",
            ],
        ),
        (
            "merged",
            "DiffusionPipeline",
            "diffusers",
            ['pipeline = DiffusionPipeline.from_pretrained(".", dtype=torch.float32)'],
        ),
    ],
)
def test_each_form_has_its_code(form: Form, classes: str, needed: str, loading: list[str]) -> None:
    lines = card(manifest(), ENTRY, form, {}).splitlines()
    begin = lines.index("## Use")
    assert lines[begin + 2 : begin + 7] == [
        f"In this directory, with {needed}:",
        "",
        "```python",
        "import torch",
        f"from diffusers import {classes}, FlowMatchEulerDiscreteScheduler",
    ]
    assert lines[begin + 8 : begin + 8 + len(loading)] == loading
    assert 'schedule = {"use_dynamic_shifting": False, "shift": 3.0}' in lines
    assert f"    num_inference_steps={ENTRY.steps}," in lines


def test_other_base_models_have_their_own_schedule_location_and_license() -> None:
    hub = entry(source={"hub": "someone/model"}, dynamic_shift=True, family="sd3", steps=28)
    text = card(manifest(), hub, "lora", {})
    assert "[someone/model](https://huggingface.co/someone/model)" in text
    assert 'base = "someone/model"' in text and "dtype=torch.bfloat16" in text
    assert "FlowMatchEulerDiscreteScheduler" not in text
    assert "    sigmas=[1 - step / 28 for step in range(28)],\n" in text and "num_inference_steps" not in text
    local = card(manifest(), entry(source={"directory": "/models/secret"}), "lora", {})
    assert 'base = "DIRECTORY OF THE BASE MODEL"' in local and "secret" not in local
