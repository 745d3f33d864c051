"""What an operator may set."""

import pytest
from pydantic import ValidationError

from service.settings import Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_listened_on(host: str) -> None:
    assert Settings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])
def test_any_other_host_is_refused_with_the_reason(host: str) -> None:
    with pytest.raises(ValidationError, match="not a loopback address; without API keys"):
        Settings(host=host)


def test_a_plain_postgresql_url_gets_the_driver() -> None:
    assert Settings(database_url="postgresql://u@h/d").database_url == "postgresql+psycopg://u@h/d"


def test_another_database_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be PostgreSQL"):
        Settings(database_url="sqlite:///x.db")


def test_names_in_the_environment_have_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G2RPO_LEASE_SECONDS", "12")
    assert Settings().lease_seconds == 12
