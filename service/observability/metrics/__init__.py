"""What Prometheus reads: requests of this process, and jobs, checkpoints and workers of the whole service."""
