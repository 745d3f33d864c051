"""`g2rpo doctor` on real servers: each problem is reported once, with its cause and its fix."""

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, func, text
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from service.cli import app
from service.contracts.status import JobStatus
from service.db import migrate
from service.db.models import Worker
from service.db.session import Database
from service.http.errors import ReadinessCheck
from service.jobs.registry import queues
from service.local import postgres, valkey
from service.local.doctor import machine
from service.local.doctor.examination import examine
from service.local.server import locked
from service.observability import checks as service_checks
from tests.service.records import Records

Checks = dict[str, ReadinessCheck]


@pytest.fixture
def environment(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The variables of a service on the test's servers."""
    monkeypatch.setenv("G2RPO_DATABASE_URL", database.settings.database_url)
    monkeypatch.setenv("G2RPO_BROKER_URL", database.settings.broker_url)
    monkeypatch.setenv("G2RPO_STORAGE_URL", f"file://{tmp_path}/store")
    monkeypatch.delenv("G2RPO_CATALOG", raising=False)
    return monkeypatch


def found(data: Path, last: str = "storage") -> Checks:
    """The findings up to `last`. The check of torch comes last and takes long."""
    checks: Checks = {}
    for check in examine(data, 0):
        checks[check.name] = check
        if check.name == last:
            break
    return checks


def wrong(checks: Checks) -> dict[str, str]:
    """The failed findings with their details."""
    assert all(check.hint for check in checks.values() if not check.ok)
    return {name: check.detail for name, check in checks.items() if not check.ok}


class TestCommand:
    @pytest.fixture
    def healthy(self, environment: pytest.MonkeyPatch, database: Database) -> None:
        with database.transaction() as session:
            for queue in queues():
                session.add(Worker(name=queue, queue=queue, device="cpu", stats={"data_free_bytes": 2**40}))

    def test_without_problems_the_command_exits_with_0(self, healthy: None, tmp_path: Path) -> None:
        done = CliRunner().invoke(app, ["doctor", "--data", str(tmp_path), "--json"])
        report = json.loads(done.stdout)
        assert (done.exit_code, report["ok"]) == (0, True), report
        names = [check["name"] for check in report["checks"]]
        assert names[:5] == ["python", "packages", "settings", "data directory", "catalog"]
        assert names[5:] == [
            *("database", "clock", "schema", "workers", "queues", "leases", "broker", "storage"),
            "torch",
        ]
        assert not [check for check in report["checks"] if check["hint"] and check["name"] != "packages"]
        assert "torch 2." in report["checks"][-1]["detail"]

    def test_problems_are_marked_with_a_fix_and_exit_with_1(self, healthy: None, tmp_path: Path) -> None:
        env = {"G2RPO_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/d", "COLUMNS": "200"}
        done = CliRunner().invoke(app, ["doctor", "--data", str(tmp_path)], env=env)
        assert done.exit_code == 1
        [line] = [line for line in done.stdout.splitlines() if line.startswith("✗")]
        assert line.startswith("✗ database: ") and "Connection refused" in line
        assert "→ start PostgreSQL, or change G2RPO_DATABASE_URL" in done.stdout
        assert "✓ broker" in done.stdout
        assert "hunter2" not in done.output


@pytest.mark.usefixtures("environment")
class TestDatabase:
    def test_a_wrong_port(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("G2RPO_DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/d")
        checks = found(tmp_path)
        assert wrong(checks).keys() == {"database"}
        assert "schema" not in checks and "hunter2" not in str(checks)

    def test_a_missing_database(self, environment: pytest.MonkeyPatch, tmp_path: Path, server_url: str) -> None:
        url = make_url(server_url).set(database="nowhere").render_as_string(hide_password=False)
        environment.setenv("G2RPO_DATABASE_URL", url)
        checks = found(tmp_path)
        assert list(wrong(checks)) == ["database"]
        assert '"nowhere" does not exist' in checks["database"].detail
        assert checks["database"].hint.startswith("create it, or fix the name")

    def test_an_unknown_host(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("G2RPO_DATABASE_URL", "postgresql://u:hunter2@nowhere.invalid/d")
        assert "host was not found" in found(tmp_path)["database"].hint

    @pytest.fixture
    def strict(self, tmp_path: Path, eventually: Any) -> Iterator[str]:
        """The URL of a server that requires the password `right` of the user `g2rpo`."""
        data = tmp_path / "strict"
        server = postgres.start(data, durable=False)
        engine = create_engine(server.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ALTER ROLE g2rpo PASSWORD 'right'"))
        engine.dispose()
        (data / "sockets" / "hba_file").write_text("local all g2rpo scram-sha-256\n")
        log = data / "postgres.log"
        reloads = log.read_text().count("reloading configuration files")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: log.read_text().count("reloading configuration files") > reloads)
        yield server.url
        server.stop()

    def test_a_wrong_password(self, environment: pytest.MonkeyPatch, tmp_path: Path, strict: str) -> None:
        url = make_url(strict).set(password="hunter2").render_as_string(hide_password=False)
        environment.setenv("G2RPO_DATABASE_URL", url)
        checks = found(tmp_path)
        assert list(wrong(checks)) == ["database"]
        assert "password authentication failed" in checks["database"].detail
        assert "the user or the password is wrong" in checks["database"].hint
        assert "hunter2" not in str(checks)

    def test_a_missing_schema(self, environment: pytest.MonkeyPatch, tmp_path: Path, empty_database_url: str) -> None:
        environment.setenv("G2RPO_DATABASE_URL", empty_database_url)
        checks = found(tmp_path)
        assert wrong(checks) == {"schema": f"the schema has revision none, but this service needs {migrate.head()}"}
        assert "python -m service.db.migrate" in checks["schema"].hint
        assert "workers" not in checks


@pytest.mark.usefixtures("environment")
class TestBroker:
    def test_a_stopped_broker(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        server = valkey.start(tmp_path / "valkey")
        environment.setenv("G2RPO_BROKER_URL", server.url)
        try:
            assert found(tmp_path)["broker"].detail.endswith("stores messages on disk")
        finally:
            server.stop()
        checks = found(tmp_path)
        assert list(wrong(checks)) == ["broker"]
        assert "start Valkey or Redis" in checks["broker"].hint

    def test_an_invalid_address(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("G2RPO_BROKER_URL", "http://user:hunter2@127.0.0.1/0")
        checks = found(tmp_path)
        assert list(wrong(checks)) == ["broker"]
        assert "redis://" in checks["broker"].hint and "hunter2" not in str(checks)


@pytest.mark.usefixtures("environment")
class TestRoom:
    def test_an_unwritable_store(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("G2RPO_STORAGE_URL", "file:///dev/null/store")
        checks = found(tmp_path)
        assert list(wrong(checks)) == ["storage"]
        assert "fix G2RPO_STORAGE_URL" in checks["storage"].hint

    def test_an_invalid_storage_url(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("G2RPO_STORAGE_URL", "nonsense://bucket")
        checks = found(tmp_path)
        assert list(wrong(checks)) == ["storage"]
        assert "nonsense" in checks["storage"].detail

    def test_a_nearly_full_disk(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("G2RPO_MIN_FREE_BYTES", str(2**60))
        problems = wrong(found(tmp_path))
        assert problems.keys() == {"data directory", "storage"}
        assert all("disk nearly full" in detail and "GiB left in" in detail for detail in problems.values())

    def test_an_unwritable_data_directory(self) -> None:
        checks = found(Path("/proc/nowhere"), last="data directory")
        assert "cannot be written" in wrong(checks)["data directory"]
        assert "--data" in checks["data directory"].hint

    def test_a_data_directory_with_open_permissions(self, tmp_path: Path) -> None:
        (tmp_path / "open").mkdir(mode=0o700)
        assert found(tmp_path / "open", last="data directory")["data directory"].hint == ""
        (tmp_path / "open").chmod(0o755)
        check = found(tmp_path / "open", last="data directory")["data directory"]
        assert check.ok and "chmod o=" in check.hint

    def test_a_missing_data_directory_is_not_created(self, tmp_path: Path) -> None:
        assert found(tmp_path / "new", last="data directory")["data directory"].ok
        assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("environment")
class TestSettings:
    def test_a_misspelt_variable_gets_a_suggestion(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("G2RPO_DATABSE_URL", "postgresql://u:hunter2@h/d")
        check = found(tmp_path, last="settings")["settings"]
        assert check.ok and check.detail == "unknown: G2RPO_DATABSE_URL (did you mean G2RPO_DATABASE_URL?)"

    def test_an_invalid_value_is_named_and_other_checks_continue(
        self, environment: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        environment.setenv("G2RPO_DATABASE_URL", "mysql://u:hunter2@h/d")
        environment.setenv("G2RPO_LEASE_SECONDS", "soon")
        checks = found(tmp_path, last="catalog")
        assert list(wrong(checks)) == ["settings"]
        assert "G2RPO_DATABASE_URL: the database must be PostgreSQL" in checks["settings"].detail
        assert "G2RPO_LEASE_SECONDS: " in checks["settings"].detail
        assert "hunter2" not in str(checks)

    def test_names_are_shown_without_values(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("G2RPO_LOG_LEVEL", "hunter2")
        detail = found(tmp_path, last="settings")["settings"].detail
        assert "G2RPO_LOG_LEVEL" in detail and "hunter2" not in detail

    @pytest.mark.parametrize(
        ("content", "detail"),
        [
            (None, "No such file"),
            ("models: [", "expected"),
            ("models: []", "rewards"),
            ("- 1", "not a catalog"),
        ],
    )
    def test_an_invalid_catalog(
        self, environment: pytest.MonkeyPatch, tmp_path: Path, content: str | None, detail: str
    ) -> None:
        file = tmp_path / "catalog.yaml"
        if content is not None:
            file.write_text(content)
        environment.setenv("G2RPO_CATALOG", str(file))
        checks = found(tmp_path, last="catalog")
        assert list(wrong(checks)) == ["catalog"]
        assert detail in checks["catalog"].detail and "G2RPO_CATALOG" in checks["catalog"].hint

    def test_missing_weights_and_prompts(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        file = tmp_path / "catalog.yaml"
        file.write_text(
            "{models: [], rewards: [], prompt_sets: [{name: mine, kind: file, path: /nowhere/prompts.txt}]}"
        )
        environment.setenv("G2RPO_CATALOG", str(file))
        check = found(tmp_path, last="catalog")["catalog"]
        assert check.ok and "/nowhere/prompts.txt" in check.detail and check.hint


@pytest.mark.usefixtures("environment")
class TestJobs:
    def test_queued_jobs_without_workers(self, records: Records, tmp_path: Path) -> None:
        records.run(queued_at=func.now() - timedelta(hours=2))
        checks = found(tmp_path)
        assert wrong(checks) == {}
        assert "0 for train" in checks["workers"].detail and "--queues train" in checks["workers"].hint
        assert checks["queues"].detail.startswith("1 runs waiting, oldest 72")
        assert "start more workers" in checks["queues"].hint

    def test_jobs_with_expired_leases(self, records: Records, tmp_path: Path) -> None:
        long_ago = func.now() - timedelta(hours=1)
        run = records.run(JobStatus.RUNNING, lease_owner="gone:1", lease_expires_at=long_ago)
        check = found(tmp_path)["leases"]
        assert check.ok and f"run {run.id} (by gone:1)" in check.detail and check.hint

    def test_a_worker_with_a_full_disk(self, database: Database, tmp_path: Path) -> None:
        with database.transaction() as session:
            session.add(Worker(name="a:1", queue="train", device="cpu", stats={"data_free_bytes": 5 * 2**20}))
            for queue in ("generate", "evaluate"):
                session.add(Worker(name=f"{queue}:1", queue=queue, device="cpu"))
        check = found(tmp_path)["workers"]
        assert "disk nearly full: worker a:1 has 5 MiB left" in check.detail
        assert "G2RPO_DATA_DIR" in check.hint


class TestOwnServers:
    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("G2RPO_DATABASE_URL", "G2RPO_BROKER_URL", "G2RPO_STORAGE_URL", "G2RPO_CATALOG"):
            monkeypatch.delenv(name, raising=False)

    def test_before_the_first_start_there_are_no_problems(self, tmp_path: Path) -> None:
        checks = found(tmp_path / "data", last="port")
        assert wrong(checks) == {}
        assert "`g2rpo up`" in checks["database"].detail and "`g2rpo up`" in checks["broker"].detail
        assert "pixeltable" in checks["embedded servers"].detail
        assert not (tmp_path / "data").exists()

    def test_embedded_servers_are_checked(self, tmp_path: Path) -> None:
        held = ExitStack()
        held.enter_context(locked(tmp_path))
        database, broker = postgres.start(tmp_path / "postgres", durable=False), valkey.start(tmp_path / "valkey")
        try:
            migrate.upgrade(database.url)
            checks = found(tmp_path, last="embedded servers")
            assert wrong(checks) == {}
            assert checks["database"].detail.startswith("PostgreSQL ")
            assert checks["broker"].detail.startswith("Valkey ")
            assert {"schema", "storage", "leases"} <= checks.keys()
        finally:
            broker.stop()
            database.stop()
            held.close()

    def test_an_occupied_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            check = service_checks.run("port", lambda: machine.port(taken.getsockname()[1]))
        assert not check.ok and "--port" in check.hint


class TestPackages:
    def look(self, lock_file: Path) -> ReadinessCheck:
        return service_checks.run("packages", lambda: machine.packages(lock_file))

    def test_another_version_than_the_locked_one_is_a_warning(self, tmp_path: Path) -> None:
        (tmp_path / "lock").write_text("# exact\nfastapi==0.0.1\nnot-installed-here==1\n")
        check = self.look(tmp_path / "lock")
        assert check.ok and "fastapi" in check.detail and "locked: 0.0.1" in check.detail and check.hint

    def test_without_a_lock_file_nothing_is_compared(self, tmp_path: Path) -> None:
        check = self.look(tmp_path / "none")
        assert check.ok and not check.hint
