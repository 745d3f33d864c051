"""Errors of commands without a valid API key."""

from typing import Any

import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from service.cli import app as commands
from tests.service.auth.conftest import keys

__all__ = ["keys"]


@pytest.mark.parametrize("key", [None, "g2k_malformed"])
def test_the_variable_of_the_key_is_named(app: FastAPI, serve: Any, keys: Any, key: str | None) -> None:
    keys.make("read")
    with serve(app) as url:
        done = CliRunner().invoke(commands, ["runs", "list"], env={"G2RPO_URL": url, "G2RPO_API_KEY": key})
    assert done.exit_code == 2
    assert "G2RPO_API_KEY" in done.stderr and len(done.stderr.splitlines()) == 1
    assert key is None or key not in done.stderr
