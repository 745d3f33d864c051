"""The training loop and its components: rollout, optimizer, held-out evaluation, checkpoints and events."""
