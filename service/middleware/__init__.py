"""ASGI middleware: request ids, request logs, authentication and the audit log."""
