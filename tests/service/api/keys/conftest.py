"""The fixtures of `tests/service/auth`."""

from tests.service.auth.conftest import away, contents, keys, remote

__all__ = ["away", "contents", "keys", "remote"]
