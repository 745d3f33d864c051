"""Alignment runs."""
