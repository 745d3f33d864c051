"""Reproducible training of the bundled weights: tokenizers and CLIP, the autoencoder, then the flow model.

`python -m worker.shapes.pretrain --out DIR` writes the weight directories into DIR. Held-out captions are excluded.
"""
