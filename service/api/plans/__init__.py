"""Plans: the cost of a run."""
