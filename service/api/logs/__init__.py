"""Logs of runs and evaluations."""
