"""The example route of CONTRIBUTING.md, in the files listed there, works as described."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi.testclient import TestClient

import service.app
from service.db.session import Database

PAGE = Path(__file__).parents[3] / "CONTRIBUTING.md"
PACKAGE = "service.api.labels"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The modules of the page's example."""
    section = PAGE.read_text(encoding="utf-8").split("\n## Add a route\n")[1].split("\n## ")[0]
    files = re.findall(r"`(\w+)\.py`:\n\n```python\n(.*?)```", section, re.DOTALL)
    assert [name for name, _ in files] == ["schemas", "service", "router"]
    made = ModuleType(PACKAGE)
    made.__path__ = []
    monkeypatch.setitem(sys.modules, PACKAGE, made)
    for name, source in files:
        module = ModuleType(f"{PACKAGE}.{name}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(source, f"{PAGE}:{name}", "exec"), module.__dict__)
        setattr(made, name, module)
    yield made


def test_the_route_responds_and_is_documented(
    package: Any, database: Database, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.app, "ROUTERS", (*service.app.ROUTERS, package.router.router))
    for labels in ({"paper": "table-2"}, {"paper": "table-1", "seed": "2"}):
        records.run(labels=labels)
    app = service.app.create_app(database.settings)
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        assert client.get("/labels").json() == [{"label": "paper", "runs": 2}, {"label": "seed", "runs": 1}]
        operation = client.get("/openapi.json").json()["paths"]["/labels"]["get"]
    assert operation["operationId"] == "listLabels" and "`read`" in operation["description"]
