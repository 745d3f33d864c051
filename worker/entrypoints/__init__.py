"""Command-line programs that are started by a supervisor, by torchrun or manually."""
