"""The catalog: models, rewards, prompt sets and judges of this installation."""
