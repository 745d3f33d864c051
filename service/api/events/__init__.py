"""What happens to a run, as it happens: server-sent events."""
