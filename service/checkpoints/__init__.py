"""Checkpoints: listing, manifests, downloads."""
