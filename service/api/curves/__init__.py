"""Convergence curves: metrics of a run over its steps, as numbers, tables and figures."""
