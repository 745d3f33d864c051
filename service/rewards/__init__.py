"""Reward groups: what a run's advantages were made of."""
