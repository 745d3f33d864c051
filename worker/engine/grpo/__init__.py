"""The mathematics of group-relative policy optimisation on flows: pure functions on tensors."""
