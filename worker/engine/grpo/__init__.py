"""The mathematics of group-relative policy optimization for flow models, on plain tensors."""
