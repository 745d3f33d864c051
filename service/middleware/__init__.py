"""ASGI middleware: request ids and limits, authentication, cached responses, the audit log."""
