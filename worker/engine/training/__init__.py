"""The training loop and what it needs: prompts, events, held-out evaluation, checkpoints."""
