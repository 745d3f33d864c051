"""Code shared with the worker: settings, logging, key format, catalog loader and bootstrap intervals."""
