"""Model cards for the weight directories, generated from the stage records and the measured scores."""

from pathlib import Path
from typing import Any

from worker.shapes import TEXT_LENGTH
from worker.shapes.pretrain.stage import read_record
from worker.shapes.pretrain.worlds import World

_CLIP = """\
---
license: apache-2.0
library_name: transformers
---
# {world.clip}

A `CLIPModel` for {world.description}, and their captions. Words outside the vocabulary become `<unk>`.

Images are 32x32, scaled to [-1, 1]; texts are padded to {length} tokens.

{stages}
Cosine of {scores[prompts]} prompts that are not in the training data and their renders: {scores[renders][clip]}; of
the prompts and renders of other prompts: {scores[mismatched_clip]}.
"""

_FLUX = """\
---
license: apache-2.0
library_name: diffusers
---
# {world.flux}

A complete `FluxPipeline` for {world.description}. It has the components of FLUX.1-dev at a small fraction of the
size. Training stopped early on purpose: a base model for alignment needs room for improvement.

```python
pipeline = FluxPipeline.from_pretrained("{world.flux}")
pipeline("{world.example}",
         height=32, width=32, num_inference_steps=8, guidance_scale=3.5, max_sequence_length={length})
```

Always pass height, width and `max_sequence_length={length}`: pad tokens are part of the prompt, as in FLUX. The
guidance value was random in training and has no effect.

{stages}
The T5 encoder ({flow[t5_parameters]:,} parameters) is trained with the transformer; the CLIP text encoder is the text
tower of `{world.clip}`, frozen. Latents are 8x8x8, shifted and scaled to zero mean and unit variance.

## Scores
{scores[prompts]} prompts that are not in the training data, {scores[steps]} steps, guidance {scores[guidance]}, first
seed {scores[seed]}. Shares that the rule-based verifier accepts, and CLIP cosines:

| | this base | renders | renders after the autoencoder |
|---|---|---|---|
{rows}
"""


def write_cards(out: Path, world: World, scores: dict[str, Any]) -> None:
    """Write the model card `README.md` to both weight directories."""
    flow = read_record(out, "flow")
    records = [flow] if world.start else [read_record(out, "autoencoder"), flow]
    values = {"world": world, "length": TEXT_LENGTH, "scores": scores, "flow": flow, "rows": score_rows(scores)}
    for name, template, stages in ((world.clip, _CLIP, [read_record(out, "clip")]), (world.flux, _FLUX, records)):
        text = "\n".join(_stage(record, world) for record in stages)
        (out / name / "README.md").write_text(template.format(stages=text, **values))


def score_rows(scores: dict[str, Any]) -> str:
    """Format the scores as Markdown table rows.

    Each row has the values for samples of the base model, renders, and reconstructed renders.
    """
    columns = [scores[column] for column in ("base", "renders", "round_trip")]
    return "\n".join(
        f"| {name} | {' | '.join(f'{column[name]:.4f}' if name in column else '' for column in columns)} |"
        for name in scores["renders"]
    )


def _stage(record: dict[str, Any], world: World) -> str:
    """Describe one stage in Markdown: size, data, settings, losses, date, device and versions."""
    preset = record["preset"]
    losses = ", ".join(f"{loss:.4g} ({step})" for step, loss in record["loss"].items())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in preset[record["stage"]].items() if value is not None)
    renders = "two images of each" if world.start else "rendered again at every step"
    data = "one image of each" if record["stage"] == "flow" else renders
    start = "\n- Start: the weights of `shapes-flux` and `shapes-clip`." if world.start else ""
    return f"""\
## {record["stage"].capitalize()} ({record["parameters"]:,} parameters)
- Data: {2 * preset["pairs"]:,} captions, none held out, {data}.
- Settings: preset {preset["name"]}, seed {preset["seed"]}, {settings}.{start}
- Loss, mean of each part (last step): {losses}.
- Trained on {record["date"]} in {record["seconds"]} s on one {record["device"]} with {versions}.
"""
