"""Code shared by all kinds of jobs: queue, validation, capacity, views and long polling."""
