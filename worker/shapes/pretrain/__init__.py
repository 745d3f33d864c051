"""Reproducible training of the bundled weights: tokenizers and CLIP, the autoencoder, then the flow model.

`python -m worker.shapes.pretrain --out DIR` writes `DIR/shapes-clip` and `DIR/shapes-flux`.
No held-out caption is seen.
"""
