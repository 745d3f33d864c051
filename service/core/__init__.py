"""Code shared with the worker: settings, logging, API key format, catalog loader and bootstrap intervals."""
