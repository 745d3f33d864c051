"""ASGI middleware: request ids and logs, authentication, the audit log."""
