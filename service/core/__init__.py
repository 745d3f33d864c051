"""Settings, logging, key format, catalog loader, bootstrap intervals: shared with the worker."""
