"""Run the whole service on one machine, with PostgreSQL, Valkey, the API and the workers as child processes."""


class EmbeddedError(RuntimeError):
    """A part of the service cannot be started or used on this machine. The message states the cause and the fix."""
