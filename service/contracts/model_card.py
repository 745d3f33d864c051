"""Model cards of checkpoints: base model, training, held-out rewards and usage."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from service.contracts.attempt_files import SPEC_FILE, CheckpointManifest
from service.contracts.catalog import ModelEntry

CARD_FILE = "README.md"
HELDOUT_FILE = "heldout.json"
Form = Literal["lora", "transformer", "merged"]
_PROMPT = "a small red circle above a large blue square on white"
_LOADING: dict[Form, tuple[str, ...]] = {
    "lora": (
        "pipeline = DiffusionPipeline.from_pretrained(base, dtype={dtype})",
        'pipeline.load_lora_weights(".", weight_name="pytorch_lora_weights.safetensors")',
    ),
    "transformer": (
        'transformer = AutoModel.from_pretrained(".", subfolder="transformer", dtype={dtype})',
        "pipeline = DiffusionPipeline.from_pretrained(base, transformer=transformer, dtype={dtype})",
    ),
    "merged": ('pipeline = DiffusionPipeline.from_pretrained(".", dtype={dtype})',),
}


def card(
    manifest: CheckpointManifest, entry: ModelEntry | None, form: Form, heldout: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return the model card as Markdown.

    `entry` is the catalog entry of the base model, or None if the catalog does not contain it. `heldout` maps reward
    names to held-out results.
    """
    return (
        "\n".join([*_about(manifest, entry), *_training(manifest), *_held_out(heldout), *_use(manifest, entry, form)])
        + "\n"
    )


def _about(manifest: CheckpointManifest, entry: ModelEntry | None) -> Iterator[str]:
    weights = "all weights of the transformer"
    if manifest.kind == "lora":
        weights = f"a LoRA of rank {manifest.lora_rank} and alpha {manifest.lora_alpha:g}"
    yield from (f"# {manifest.model}, step {manifest.step}", "")
    yield f"A checkpoint of G²RPO: {weights} for the base model `{manifest.model}`."
    if entry is not None and entry.description:
        yield from ("", f"Base model: {entry.description}")
    hub = entry.source.hub if entry is not None else None
    base = f"[{hub}](https://huggingface.co/{hub})" if hub else f"`{manifest.model}`"
    yield from ("", "## License", "", f"These weights are derived from {base}, whose license applies to them.")


def _training(manifest: CheckpointManifest) -> Iterator[str]:
    spec = manifest.spec
    if spec is None:
        yield from ("", "The weights were imported; their training is unknown.")
        return
    algorithm, prompts = spec["algorithm"], spec["prompts"]
    source = f"the set `{prompts['set']}`" if prompts.get("set") else f"a list of {len(prompts.get('items') or ())}"
    yield from ("", "## Training", "", "| | |", "|---|---|")
    yield f"| algorithm | {algorithm['name']} |"
    yield f"| optimizer steps | {manifest.step} |"
    for reward in spec["rewards"]:
        yield f"| reward | {reward['name']}, weight {reward['weight']:g} |"
    yield f"| prompts | {source} |"
    yield f"| seed | {spec['training']['seed']} |"
    yield from ("", f"Full spec: [{SPEC_FILE}]({SPEC_FILE}).")


def _held_out(heldout: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if not heldout:
        return
    yield from (
        "",
        "## Held-out images",
        "",
        "Rewards on the same prompts and noises before and after training, which are not trained on.",
        "",
    )
    yield "| reward | before | after | difference | 95% interval | pairs |"
    yield "|---|---|---|---|---|---|"
    for name, reward in heldout.items():
        interval = reward.get("interval95")
        between = f"{interval[0]:+.4f} to {interval[1]:+.4f}" if interval else "computed at the end of the run"
        numbers = f"{reward['before']:.4f} | {reward['after']:.4f} | {reward['after'] - reward['before']:+.4f}"
        yield f"| {name} | {numbers} | {between} | {reward.get('pairs') or ''} |"


def _use(manifest: CheckpointManifest, entry: ModelEntry | None, form: Form) -> Iterator[str]:
    if entry is None:
        return
    dtype = "torch.float32" if entry.source.bundled else "torch.bfloat16"
    names = ["AutoModel"] if form == "transformer" else []
    schedulers = [] if entry.dynamic_shift else ["FlowMatchEulerDiscreteScheduler"]
    imported = ", ".join([*names, "DiffusionPipeline", *schedulers])
    needed = "diffusers and peft" if form == "lora" else "diffusers"
    yield from ("", "## Use", "", f"In this directory, with {needed}:")
    yield from ("", "```python", "import torch", f"from diffusers import {imported}", "")
    if form != "merged":
        yield f"base = {json.dumps(_base(entry))}"
    for line in _LOADING[form]:
        yield line.format(dtype=dtype)
    if not entry.dynamic_shift:  # otherwise the pipeline's schedule is correct
        yield f'schedule = {{"use_dynamic_shifting": False, "shift": {entry.shift}}}'
        yield "pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, **schedule)"
    yield "image = pipeline("
    yield f"    {json.dumps(_PROMPT)},"
    if entry.family == "sd3":  # its pipeline's default schedule ends at a different noise level
        yield f"    sigmas=[1 - step / {entry.steps} for step in range({entry.steps})],"
    else:
        yield f"    num_inference_steps={entry.steps},"
    yield f"    guidance_scale={entry.guidance},"
    yield f"    width={entry.width},"
    yield f"    height={entry.height},"
    yield f"    max_sequence_length={entry.text_length},"
    yield "    generator=torch.Generator().manual_seed(7),"
    yield from (").images[0]", 'image.save("image.png")', "```")
    if form == "lora":
        scale = (manifest.lora_alpha or 0) / (manifest.lora_rank or 1)
        yield ""
        yield "diffusers and PEFT read alpha from the metadata of `pytorch_lora_weights.safetensors`. Other programs,"
        yield f"such as ComfyUI and sd-scripts, ignore the metadata and would use the scale 1 instead of {scale:g}. For"
        yield "them, download the LoRA in kohya's format: `GET /checkpoints/ID/kohya`, or"
        yield "`g2rpo checkpoints download ID --kohya`."


def _base(entry: ModelEntry) -> str:
    """Return the public location of the base model, or a placeholder for a local directory, which is not disclosed."""
    if entry.source.bundled:
        return f"worker/shapes/weights/{entry.source.bundled}"
    return entry.source.hub or "DIRECTORY OF THE BASE MODEL"
