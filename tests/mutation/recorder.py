"""A pytest plugin that records, for `map`, the durations of tests and shared fixtures, and shared use of fixtures.

It does not import the project, so that it runs in any tree: `-p recorder`, with this directory on the path. Each
process writes a file of JSON lines to `$MUTATION_RECORDS`.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def _write(**record: Any) -> None:
    with (Path(os.environ["MUTATION_RECORDS"]) / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the fixtures with a scope wider than a function that each test requests."""
    for item in session.items:
        known: dict[str, Any] = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009
        wide = [name for name, definitions in known.items() if definitions[-1].scope != "function"]
        _write(id=item.nodeid, uses={name: known[name][-1].scope for name in wide})


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """Write the duration of a shared fixture without its dependencies."""
    began = time.perf_counter()
    result = yield
    if fixturedef.scope != "function":
        _write(fixture=fixturedef.argname, scope=fixturedef.scope, s=time.perf_counter() - began)
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write the duration of a phase of a test; with pytest-xdist, in the process that ran the test."""
    if not hasattr(report, "node"):
        _write(id=report.nodeid, when=report.when, s=report.duration, o=report.outcome)
