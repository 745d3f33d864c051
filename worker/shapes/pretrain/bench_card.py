"""The model cards of the weights for `shapes-bench`."""

from pathlib import Path
from typing import Any

from service.contracts.benchmarks.dimensions import PRIMARY
from worker.shapes import TEXT_LENGTH
from worker.shapes.pretrain.card import stage
from worker.shapes.pretrain.record import read_record

_CLIP = """\
---
license: apache-2.0
library_name: transformers
---
# shapes-clip-2

A `CLIPModel` for the world of `shapes-bench`: 32x32 images of a few coloured shapes or a sign, and their captions. It
began as `shapes-clip` and learnt more words. It knows nothing else: words outside the world become `<unk>`.

Images are 32x32, scaled to [-1, 1]; texts are padded to {length} tokens.

{clip}
Cosine of the benchmark's prompts to renders of them: {scores[renders][clip]}; to renders of other prompts:
{scores[mismatched_clip]}.
"""

_FLUX = """\
---
license: apache-2.0
library_name: diffusers
---
# shapes-flux-2

A complete `FluxPipeline` for the world of `shapes-bench`. It has the parts and sizes of `shapes-flux`, from whose
weights its training began (new words had small random embeddings), and that model's autoencoder unchanged. It is
deliberately half-trained: a base for alignment, which needs room.

```python
pipeline = FluxPipeline.from_pretrained("shapes-flux-2")
pipeline("the letter E in red above a blue square on white",
         height=32, width=32, num_inference_steps=8, guidance_scale=3.5, max_sequence_length={length})
```

Always give height, width and `max_sequence_length={length}`: pad tokens are part of the prompt, as in FLUX. The
guidance value was drawn at random in training and makes no difference.

{flow}
The T5 encoder ({t5_parameters:,} parameters) is trained with the transformer; the CLIP text encoder is the text tower
of `shapes-clip-2`, frozen.

## Scores
`shapes-bench`, {scores[prompts]} prompts, {scores[images]} images each with seeds from {scores[seed]} on,
{scores[steps]} steps, guidance {scores[guidance]}, judged by rules from the pixels. Share of test points met:

| | this base | renders | renders after the autoencoder |
|---|---|---|---|
{rows}
| CLIP cosine | {scores[base][clip]} | {scores[renders][clip]} | |
"""


def write_bench_cards(out: Path, flux_name: str, clip_name: str, scores: dict[str, Any]) -> None:
    """Writes `README.md` into both weight directories."""
    flow = read_record(out, "flow")
    clip = _CLIP.format(length=TEXT_LENGTH, clip=stage(read_record(out, "clip")), scores=scores)
    flux = _FLUX.format(
        length=TEXT_LENGTH,
        flow=stage(flow),
        t5_parameters=flow["t5_parameters"],
        scores=scores,
        rows=score_rows(scores),
    )
    (out / clip_name / "README.md").write_text(clip)
    (out / flux_name / "README.md").write_text(flux)


def score_rows(scores: dict[str, Any]) -> str:
    """A line of a table for each dimension, their mean, and all test points alike."""
    columns = ("base", "renders", "round_trip")
    names = {**{name: name for name in PRIMARY}, "overall": "Overall (mean of the ten)", "micro": "all test points"}
    return "\n".join(
        f"| {told} | {' | '.join(f'{scores[column][name]:.4f}' for column in columns if name in scores[column])} |"
        for name, told in names.items()
    )
