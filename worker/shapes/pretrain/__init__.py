"""Reproducible training of the bundled weights: first tokenizers and CLIP, then the autoencoder and the flow model.

`python -m worker.shapes.pretrain --out DIR` writes the weight directories to DIR. Training excludes held-out captions.
"""
