"""Prompt sets: uploaded lists of prompts and the prompt sets in the catalog."""
