"""What a run's child process printed."""
