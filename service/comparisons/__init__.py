"""Curves of several runs over each other, alone or as the mean of a group of seeds."""
