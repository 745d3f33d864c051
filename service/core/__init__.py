"""Settings, logs, the form of keys, bootstrap intervals: shared with the worker."""
