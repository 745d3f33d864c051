"""The mathematics of group-relative policy optimization on flows: pure functions on tensors."""
