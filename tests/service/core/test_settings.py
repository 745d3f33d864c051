"""Settings: valid and invalid values."""

import pytest
from pydantic import ValidationError

from service.core.settings import Settings


def test_a_lease_must_outlast_its_renewal() -> None:
    with pytest.raises(ValidationError, match="must be at most half of lease_seconds 5"):
        Settings(lease_seconds=5, renew_seconds=10)


def test_a_plain_postgresql_url_gets_the_driver() -> None:
    assert Settings(database_url="postgresql://u@h/d").database_url == "postgresql+psycopg://u@h/d"


def test_another_database_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be PostgreSQL"):
        Settings(database_url="sqlite:///x.db")


def test_names_in_the_environment_have_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G2RPO_LEASE_SECONDS", "24")
    assert Settings().lease_seconds == 24
