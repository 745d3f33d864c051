"""Prompt sets: uploaded lists of prompts, and those of the catalog."""
