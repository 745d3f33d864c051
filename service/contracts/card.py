"""The page that goes with a checkpoint wherever it is taken: what it is, how it came about, how it is loaded."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from service.contracts.catalog import ModelEntry
from service.contracts.jobs import SPEC_FILE, CheckpointManifest

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
    """The page as Markdown. `entry`: the base, where the catalog still has it; `heldout`: what was found, by reward."""
    return "\n".join([*_about(manifest, entry), *_training(manifest), *_held_out(heldout), *_use(entry, form)]) + "\n"


def _about(manifest: CheckpointManifest, entry: ModelEntry | None) -> Iterator[str]:
    what = "all weights of the transformer"
    if manifest.kind == "lora":
        what = f"a LoRA of rank {manifest.lora_rank} and alpha {manifest.lora_alpha:g}"
    yield from (f"# {manifest.model}, step {manifest.step}", "")
    yield f"A checkpoint of G²RPO: {what} for the base model `{manifest.model}`."
    if entry is not None and entry.description:
        yield from ("", f"The base: {entry.description}")
    place = _hub(entry)
    whose = f"[{place}](https://huggingface.co/{place})" if place else f"`{manifest.model}`"
    yield from ("", "## Licence", "")
    yield f"These weights derive from {whose}: its licence holds for them, too, and says who may use them for what."


def _training(manifest: CheckpointManifest) -> Iterator[str]:
    spec = manifest.spec
    if spec is None:
        yield from ("", "The weights were imported; how they were trained is not known here.")
        return
    algorithm, prompts = spec["algorithm"], spec["prompts"]
    source = f"the set `{prompts['set']}`" if prompts.get("set") else f"{len(prompts.get('items') or ())} prompts given"
    yield from ("", "## Training", "", "| | |", "|---|---|")
    yield f"| algorithm | {algorithm['name']} |"
    yield f"| optimizer steps | {manifest.step} |"
    for reward in spec["rewards"]:
        yield f"| reward | {reward['name']}, weight {reward['weight']:g} |"
    yield f"| prompts | {source} |"
    yield f"| seed | {spec['training']['seed']} |"
    yield from ("", f"All of it: [{SPEC_FILE}]({SPEC_FILE}).")


def _held_out(heldout: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if not heldout:
        return
    yield from ("", "## Held-out images", "", "The same prompts and noises before and after, never trained on.", "")
    yield "| reward | before | after | difference | 95% interval | pairs |"
    yield "|---|---|---|---|---|---|"
    for name, one in heldout.items():
        interval = one.get("interval95")
        between = f"{interval[0]:+.4f} to {interval[1]:+.4f}" if interval else "only known at a run's end"
        numbers = f"{one['before']:.4f} | {one['after']:.4f} | {one['after'] - one['before']:+.4f}"
        yield f"| {name} | {numbers} | {between} | {one.get('pairs') or ''} |"


def _use(entry: ModelEntry | None, form: Form) -> Iterator[str]:
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
    if not entry.dynamic_shift:  # else the pipeline's own schedule is the right one
        yield f'schedule = {{"use_dynamic_shifting": False, "shift": {entry.shift}}}'
        yield "pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, **schedule)"
    yield "image = pipeline("
    yield f"    {json.dumps(_PROMPT)},"
    if entry.family == "sd3":  # whose pipeline's own schedule ends elsewhere
        yield f"    sigmas=[1 - step / {entry.steps} for step in range({entry.steps})],"
    else:
        yield f"    num_inference_steps={entry.steps},"
    yield f"    guidance_scale={entry.guidance},"
    yield f"    width={entry.width},"
    yield f"    height={entry.height},"
    yield f"    max_sequence_length={entry.text_length},"
    yield "    generator=torch.Generator().manual_seed(7),"
    yield from (").images[0]", 'image.save("image.png")', "```")


def _hub(entry: ModelEntry | None) -> str | None:
    return entry.source.hub if entry is not None else None


def _base(entry: ModelEntry) -> str:
    """Where the base is for somebody else: an operator's directories are nobody's business."""
    if entry.source.bundled:
        return f"worker/shapes/weights/{entry.source.bundled}"
    return entry.source.hub or "DIRECTORY OF THE BASE MODEL"
