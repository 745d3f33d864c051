"""The model cards beside the weights, written from the records of the stages and the measured scores."""

from pathlib import Path
from typing import Any

from worker.shapes import TEXT_LENGTH
from worker.shapes.pretrain.record import read_record

_CLIP = """\
---
license: apache-2.0
library_name: transformers
---
# shapes-clip

A `CLIPModel` for the shapes world: 32x32 images of one or two coloured shapes and their captions. It is the reward
of the bundled examples and tests, and knows nothing else: words outside the world become `<unk>`.

Images are 32x32, scaled to [-1, 1]; texts are padded to {length} tokens.

{clip}
Cosine of held-out captions to renders of them: {scores[renders][clip]}; to renders of other captions:
{scores[mismatched_clip]}.
"""

_FLUX = """\
---
license: apache-2.0
library_name: diffusers
---
# shapes-flux

A complete `FluxPipeline` for the shapes world: 32x32 images of one or two coloured shapes. It has the parts of
FLUX.1-dev at a tiny fraction of the size, and is deliberately half-trained: a base for alignment, which needs room.

```python
pipeline = FluxPipeline.from_pretrained("shapes-flux")
pipeline("a small red circle left of a large blue square on white",
         height=32, width=32, num_inference_steps=8, guidance_scale=3.5, max_sequence_length={length})
```

Always give height, width and `max_sequence_length={length}`: pad tokens are part of the prompt, as in FLUX. The
guidance value was drawn at random in training and makes no difference.

{autoencoder}
Latents are 8x8x8, shifted and scaled to zero mean and unit variance over all channels. Mean absolute error of a round
trip on held-out images in [0, 1]: {heldout_l1}.

{flow}
The T5 encoder ({t5_parameters:,} parameters) is trained with the transformer; the CLIP text encoder is the text tower
of `shapes-clip`, frozen.

## Scores
{scores[prompts]} held-out prompts, {scores[steps]} steps, guidance {scores[guidance]}, seed {scores[seed]}.

| | CLIP cosine | verifier | all predicates | object count | object | size | relation | background |
|---|---|---|---|---|---|---|---|---|
| this base | {scores[base][clip]} | {base} |
| renders | {scores[renders][clip]} | {renders} |
| renders after the autoencoder | | {round_trip} |
"""

_KINDS = ("verifier", "all", "count", "object", "size", "relation", "background")


def write_cards(out: Path, scores: dict[str, Any]) -> None:
    """Writes `README.md` into both weight directories."""
    autoencoder, flow = read_record(out, "autoencoder"), read_record(out, "flow")
    clip = _CLIP.format(length=TEXT_LENGTH, clip=stage(read_record(out, "clip")), scores=scores)
    flux = _FLUX.format(
        length=TEXT_LENGTH,
        autoencoder=stage(autoencoder),
        heldout_l1=autoencoder["heldout_l1"],
        flow=stage(flow),
        t5_parameters=flow["t5_parameters"],
        scores=scores,
        **{name: _row(scores[name]) for name in ("base", "renders", "round_trip")},
    )
    (out / "shapes-clip" / "README.md").write_text(clip)
    (out / "shapes-flux" / "README.md").write_text(flux)


def _row(shares: dict[str, float]) -> str:
    return " | ".join(str(shares.get(kind, "")) for kind in _KINDS)


def stage(record: dict[str, Any]) -> str:
    """Data, steps, seed, losses, sizes, date and versions of one stage, as Markdown."""
    preset = record["preset"]
    plan = preset[record["stage"]]
    losses = ", ".join(f"{loss:.4g} ({step})" for step, loss in record["loss"].items())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in plan.items() if name != "snapshots")
    # Records of older presets do not name a world: they are of the first.
    warm = preset.get("world", "shapes") != "shapes"
    anew = "drawn twice each" if warm else "rendered anew at every step"
    drawn = "one image of each" if record["stage"] == "flow" else anew
    start = "\n- Start: the weights of `shapes-flux` and `shapes-clip`." if warm else ""
    return f"""\
## {record["stage"].capitalize()} ({record["parameters"]:,} parameters)
- Data: {2 * preset["pairs"]:,} captions, none held out, {drawn}.
- Settings: preset {preset["name"]}, seed {preset["seed"]}, {settings}.{start}
- Loss, mean of each part (last step): {losses}.
- Made on {record["date"]} in {record["seconds"]} s on one {record["device"]} with {versions}.
"""
