"""Convergence curves: metrics of runs over their steps, as JSON, CSV or figures."""
