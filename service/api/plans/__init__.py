"""Plans: cost estimates for runs."""
