"""The whole service on one machine: PostgreSQL, Valkey, the API and the workers as children of one process."""


class EmbeddedError(RuntimeError):
    """A part of the service cannot be started or used on this machine. The message has the cause and the fix."""
