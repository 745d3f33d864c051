"""The bundled world: small images of colored shapes, their captions, and the rules that judge one by the other."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
FLUX_WEIGHTS = WEIGHTS / "shapes-flux"
"""A complete `FluxPipeline` directory."""
CLIP_WEIGHTS = WEIGHTS / "shapes-clip"
"""A `CLIPModel` directory with its tokenizer and image processor."""
BENCH_FLUX_WEIGHTS, BENCH_CLIP_WEIGHTS = WEIGHTS / "shapes-flux-2", WEIGHTS / "shapes-clip-2"
"""The same for the world of `shapes-bench`, which has more words."""

IMAGE_SIZE = 32
"""Height and width of every image, in pixels."""
TEXT_LENGTH = 16
"""Tokens of every prompt, as CLIP's `model_max_length` and T5's `max_sequence_length`: embeddings depend on it."""
