"""ASGI middleware: request ids, request logs, security headers, HEAD, authentication and the audit log."""
