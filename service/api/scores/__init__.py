"""Rewards of given images."""
