"""Prompt sets: lists of prompts that clients send, and those of the catalog."""
