"""Rewards of given pictures."""
