"""The catalog: the models, rewards, prompt sets and judges of this installation."""
