"""Evaluations: images of a benchmark's prompts are drawn, and a judge says what they show."""
