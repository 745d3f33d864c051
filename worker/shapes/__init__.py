"""The bundled worlds: small images of colored shapes, captions, and rules that check images against captions."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
FLUX_WEIGHTS = WEIGHTS / "shapes-flux"
"""A complete `FluxPipeline` directory."""
CLIP_WEIGHTS = WEIGHTS / "shapes-clip"
"""A `CLIPModel` directory with its tokenizer and image processor."""
BENCH_FLUX_WEIGHTS, BENCH_CLIP_WEIGHTS = WEIGHTS / "shapes-flux-2", WEIGHTS / "shapes-clip-2"
"""The corresponding directories for the world of `shapes-bench`, which has a larger vocabulary."""

IMAGE_SIZE = 32
"""Height and width of every image, in pixels."""
TEXT_LENGTH = 16
"""Padded length of every prompt in tokens: CLIP's `model_max_length` and T5's `max_sequence_length`.

Embeddings depend on it.
"""
