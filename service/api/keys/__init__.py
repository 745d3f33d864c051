"""API keys: making, showing and revoking them, and what each lets its owner do."""
