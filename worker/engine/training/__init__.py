"""The training loop and its parts: rollout, optimizer, held-out evaluation, checkpoints and events."""
