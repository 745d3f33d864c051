"""PostgreSQL, Valkey, the API and the workers as children of one process: the whole service on one machine."""


class EmbeddedError(RuntimeError):
    """Something on this machine keeps a part of the service from starting. The message says what and how to mend it."""
