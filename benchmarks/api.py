"""Measure the API: import, start, POST /runs, and curves of one or several long runs.

    python benchmarks/api.py [--posts 200] [--rows 100000]

Uses G2RPO_DATABASE_URL and G2RPO_BROKER_URL if set, otherwise embedded servers in a temporary directory. Creates a
separate database on the server and drops it at the end.
"""

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
from sqlalchemy import create_engine, insert, text
from sqlalchemy.engine import make_url

from service.core.settings import Settings
from service.db import migrate
from service.db.models import Metric
from service.db.session import connect

METRICS = 20
"""Number of metric names of a run; the rows are divided among them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--posts", type=int, default=200, help="number of runs to create")
    parser.add_argument("--rows", type=int, default=100_000, help="metric rows of the long run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory, servers(Path(directory)) as environment:
        print(f"import service.app                   {import_seconds():6.2f} s   (best of 5, fresh interpreter)")
        starts = [start_seconds(environment) for _ in range(5)]
        print(f"start to first response              {min(starts):6.2f} s   (best of 5, worst {max(starts):.2f} s)")
        with api(environment) as (url, _), httpx.Client(base_url=url, timeout=30) as client:
            posts = [
                milliseconds(lambda: client.post("/runs", json={}).raise_for_status()) for _ in range(arguments.posts)
            ]
            report(f"POST /runs, {arguments.posts} times", posts)
            one_name = fill(client, environment, arguments.rows, names=1)
            many_names = fill(client, environment, arguments.rows, names=METRICS)
            for run, names in ((one_name, 1), (many_names, METRICS)):
                times = [
                    milliseconds(lambda run=run: client.get(f"/runs/{run}/curves").raise_for_status())  # type: ignore[misc]
                    for _ in range(30)
                ]
                report(f"curves, {arguments.rows} rows of {names} metrics", times)
            six = [fill(client, environment, arguments.rows // 5, names=METRICS, elapsed=True) for _ in range(6)]
            groups = [f"a:{','.join(six[:3])}", f"b:{','.join(six[3:])}"]
            query = {"group": groups, "metric": [f"reward/0{name}" for name in range(4)], "x": "seconds"}
            for form in ("application/json", "image/svg+xml"):
                times = [
                    milliseconds(
                        lambda form=form: client.get(  # type: ignore[misc]
                            "/curves", params=query, headers={"Accept": form}
                        ).raise_for_status()
                    )
                    for _ in range(30)
                ]
                report(f"6 runs compared, {form.partition('/')[2]}", times)
            report("GET /runs/{id} of that run", [milliseconds(lambda: client.get(f"/runs/{run}")) for _ in range(30)])
            report("GET /runs, 50 items", [milliseconds(lambda: client.get("/runs")) for _ in range(30)])


def report(what: str, times: list[float]) -> None:
    """Print the median and the 95th percentile."""
    ordered = sorted(times)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    print(f"{what:36} {statistics.median(times):6.1f} ms median, {p95:6.1f} ms p95")


def milliseconds(action: object) -> float:
    """Duration of `action`."""
    assert callable(action)
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)


def import_seconds() -> float:
    """The minimum duration of five imports, each measured in a separate interpreter."""
    code = "import time; t = time.perf_counter(); import service.app; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    return min(float(subprocess.run(command, capture_output=True, check=True, text=True).stdout) for _ in range(5))


def start_seconds(environment: dict[str, str]) -> float:
    """Seconds from the start of an API process to its first response."""
    with api(environment) as (_, started):
        return started


@contextlib.contextmanager
def servers(directory: Path) -> Iterator[dict[str, str]]:
    """Yield the environment variables of an API with a separate, migrated database and a broker."""
    with contextlib.ExitStack() as stack:
        server, broker = os.environ.get("G2RPO_DATABASE_URL"), os.environ.get("G2RPO_BROKER_URL")
        if server is None:
            from service.local import postgres

            embedded = postgres.start(directory / "postgres")
            stack.callback(embedded.stop)
            server = embedded.url
        if broker is None:
            from service.local import valkey

            started = valkey.start(directory / "valkey")
            stack.callback(started.stop)
            broker = started.url
        name = f"benchmark_{uuid.uuid4().hex}"
        admin = create_engine(server, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        database = make_url(server).set(database=name).render_as_string(hide_password=False)
        migrate.upgrade(database)
        yield {
            **os.environ,
            "G2RPO_DATABASE_URL": database,
            "G2RPO_BROKER_URL": broker,
            "G2RPO_DATA_DIR": str(directory),
            "G2RPO_LOG_LEVEL": "WARNING",
        }
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


@contextlib.contextmanager
def api(environment: dict[str, str]) -> Iterator[tuple[str, float]]:
    """Run an API process; yield its URL and the seconds from its start to the first response."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    options = ["--factory", "service.app:create_app", "--port", str(port), "--log-level", "warning", "--no-access-log"]
    options += ["--http", "h11"]  # as in service/local/api.py
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "uvicorn", *options], env=environment)
    try:
        with httpx.Client(base_url=url) as client:
            while True:
                with contextlib.suppress(httpx.ConnectError):
                    client.get("/healthz").raise_for_status()
                    break
                if process.poll() is not None:
                    raise SystemExit("The API process exited before its first response; see its output above")
                time.sleep(0.01)
        yield url, time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()


def fill(client: httpx.Client, environment: dict[str, str], rows: int, names: int, elapsed: bool = False) -> str:
    """Create a run with `rows` metric rows, and with the seconds of each step if `elapsed`; return its id."""
    run = uuid.UUID(client.post("/runs", json={}).json()["id"])
    database = connect(
        Settings(database_url=environment["G2RPO_DATABASE_URL"], data_dir=Path(environment["G2RPO_DATA_DIR"]))
    )
    values = [
        {"run_id": run, "attempt": 1, "name": f"reward/{name:02}", "step": step, "value": (step * 7919 % 1000) / 1000}
        for name in range(names)
        for step in range(rows // names)
    ]
    if elapsed:
        values += [
            {
                "run_id": run,
                "attempt": 1,
                "name": "elapsed/seconds",
                "step": step,
                "value": step * (1 + run.int % 7 / 100),
            }
            for step in range(rows // names)
        ]
    with database.transaction() as session:
        session.execute(insert(Metric), values)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE metrics"))
    database.close()
    return str(run)


if __name__ == "__main__":
    main()
