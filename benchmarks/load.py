"""Measure the API under mixed reads while a run trains: latency, errors, and the slowdown of the run.

    python benchmarks/load.py [--rate 100] [--seconds 60] [--json FILE] [--costs]

Starts the service in a temporary directory, with a long finished run and a run that trains (preset `shapes`), whose
step time is measured before, during and after the load. `--costs` measures CPU time per route instead.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image
from sqlalchemy import insert, text

from service.client import Client
from service.core.settings import Settings
from service.db.models import Metric, RewardGroup, Sample
from service.db.models.run import LogChunk
from service.db.session import Database, connect
from service.local.running_servers import find_running
from service.local.stack import Stack

ROWS, METRICS = 100_000, 20
"""Metric rows of the finished run, and the number of metric names among which they are divided."""
STREAMS = 24  # event streams that stay open
IDLE_SECONDS = 3.0
"""Maximum idle time of a reused connection; the server closes connections after five idle seconds."""
ENDED = ("succeeded", "failed", "cancelled")
TRAINING = {"preset": "shapes", "name": "under load", "training": {"max_steps": 1_000_000}}


@dataclass(frozen=True)
class Read:
    """A request of the mix and its relative frequency."""

    route: str
    path: str
    weight: int


@dataclass
class Load:
    """Latencies and errors of the requests."""

    milliseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass(frozen=True)
class Window:
    """Seconds of each complete training step and of its parts, and the share of a core that each process used."""

    steps: list[float]
    parts: dict[str, float]
    share: dict[str, float]

    @property
    def seconds_per_step(self) -> float:
        return statistics.fmean(self.steps) if self.steps else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="duration of the load and of the periods before and after"
    )
    parser.add_argument("--json", type=Path, help="also write the measurements to this file")
    parser.add_argument("--costs", action="store_true", help="measure the CPU time of each route instead")
    arguments = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("G2RPO_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory, Stack(Path(directory), port=0) as stack:
        key = made_key(stack)
        with Client(stack.url, key) as client:
            finished, sample = filled(stack, client)
            if arguments.costs:
                figures = costs(stack, key, mix(finished, finished, sample))
            else:
                figures = measured(stack, client, key, finished, sample, arguments.rate, arguments.seconds)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def made_key(stack: Stack) -> str:
    """Create an admin key with a very high rate limit."""
    spec = {"name": "load", "scopes": ["admin"], "requests_per_minute": 1_000_000}
    made = httpx.post(f"{stack.url}/keys", json=spec, trust_env=False).raise_for_status().json()
    return str(made["key"])


def filled(stack: Stack, client: Client) -> tuple[str, str]:
    """Create a run with the rows of a long run; return its id and the id of one of its samples."""
    run = client.create_run({"preset": "shapes", "name": "finished"}).id
    client.cancel(run)
    while client.run(run).status not in ENDED:
        time.sleep(0.1)
    with database_of(stack) as database:
        sample = _fill(database, stack.data, run)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    return str(run), str(sample)


@contextlib.contextmanager
def database_of(stack: Stack) -> Iterator[Database]:
    """Connect to the database and the artifacts of the stack."""
    running = find_running(stack.data)
    assert running is not None and running.database_url is not None
    database = connect(Settings(database_url=running.database_url, data_dir=stack.data))
    yield database
    database.close()


def _fill(database: Database, directory: Path, run: uuid.UUID) -> uuid.UUID:
    key: dict[str, Any] = {"run_id": run, "attempt": 1}
    steps = range(ROWS // METRICS)
    metrics = [
        {**key, "name": f"reward/{name:02}", "step": step, "value": step * 7919 % 1000 / 1000}
        for name in range(METRICS)
        for step in steps
    ]
    groups = [
        {**key, "step": step, "prompt_index": prompt, "sde_step": sde, "granularity": 1, "reward": "clip_score"}
        | {"prompt": "a small red circle above a large blue square", "values": [0.1 * part for part in range(12)]}
        for step in range(1, 60)
        for prompt in range(8)
        for sde in range(4)
    ]
    image = directory / "image.png"
    Image.effect_noise((32, 32), 50).save(image)
    with database.transaction() as session:
        session.execute(insert(Metric), metrics)
        session.execute(insert(RewardGroup), groups)
        line = b"step 12 of 60: reward 0.68, spread 0.11, 4.0 s\n"
        session.add_all(
            LogChunk(run_id=run, attempt=1, offset=number * 1000 * len(line), data=line * 1000) for number in range(20)
        )
        samples = []
        for index in range(64):
            stored = database.artifacts.put_file(image, f"runs/{run}/samples/{index}.png")
            shown = {"step": 10 * (index // 8), "kind": "heldout", "index": index % 8, "prompt": "a red circle"}
            samples.append(
                Sample(
                    **key, **shown, rewards={"clip_score": 0.7}, key=stored.key, sha256=stored.sha256, size=stored.size
                )
            )
        session.add_all(samples)
        session.flush()
        return samples[0].id


def mix(training: str, finished: str, sample: str) -> list[Read]:
    """Requests of users and dashboards that follow a run."""
    return [
        Read("/runs", "/runs", 8),
        Read("/runs?status", "/runs?status=running&status=queued&limit=10", 6),
        Read("/runs/{id}", f"/runs/{training}", 20),
        Read("/runs/{id} ended", f"/runs/{finished}", 6),
        Read("/curves", f"/runs/{training}/curves", 10),
        Read("/curves 200 points", f"/runs/{finished}/curves?metrics=reward/0*&max_points=200", 6),
        Read("/curves 500 points", f"/runs/{finished}/curves", 3),
        Read("/curves 5000 points", f"/runs/{finished}/curves?metrics=reward/00,reward/01&max_points=10000", 1),
        Read("/rewards", f"/runs/{finished}/rewards", 5),
        Read("/samples", f"/runs/{finished}/samples", 5),
        Read("/samples/{id}/image", f"/runs/{finished}/samples/{sample}/image", 10),
        Read("/logs", f"/runs/{finished}/logs?limit=16384", 5),
        Read("/runs/{id}/checkpoints", f"/runs/{training}/checkpoints", 3),
        Read("/checkpoints", "/checkpoints", 2),
        Read("/generations", "/generations", 2),
        Read("/catalog", "/catalog", 3),
        Read("/healthz", "/healthz", 3),
        Read("/readyz", "/readyz", 1),
        Read("/metrics", "/metrics", 1),
    ]


def measured(
    stack: Stack, client: Client, key: str, finished: str, sample: str, rate: float, seconds: float
) -> dict[str, Any]:
    """Measure the three periods and the load; print and return the results."""
    run = client.create_run(TRAINING).id
    while (client.run(run).progress is None) or "seconds/update" not in client.run(run).metrics:
        time.sleep(1)
    before = window(stack, client, run, lambda: wait_for_steps(client, run, seconds))
    load = Load()
    reads = mix(str(run), finished, sample)
    under = window(stack, client, run, lambda: asyncio.run(drive(stack.url, key, reads, str(run), rate, seconds, load)))
    after = window(stack, client, run, lambda: wait_for_steps(client, run, seconds))
    client.cancel(run)
    quiet = statistics.fmean(before.steps + after.steps)
    slowdown = 100 * (under.seconds_per_step / quiet - 1)  # NaN if no complete step falls into the load
    _print_load(load)
    names = {"before": before, "under load": under, "after": after}
    for name, one in names.items():
        shares = ", ".join(f"{process} {100 * share:.0f}%" for process, share in one.share.items() if share >= 0.005)
        parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in one.parts.items())
        print(
            f"{name:12} {one.seconds_per_step:6.2f} s per step ({len(one.steps)} steps): {parts}; of a core: {shares}"
        )
    print(f"training slowed down by {slowdown:.1f}%")
    return {
        "rate": rate,
        "routes": {route: spread(times) for route, times in load.milliseconds.items()},
        "all": spread([one for times in load.milliseconds.values() for one in times]),
        "errors": dict(load.errors),
        "windows": {name: asdict(one) for name, one in names.items()},
        "slowdown_percent": slowdown,
    }


def window(stack: Stack, client: Client, run: uuid.UUID, meanwhile: Any) -> Window:
    """Measure complete steps of the run and CPU time of the processes while `meanwhile` runs."""
    first, used, start = step_of(client, run), processor_seconds(stack), time.perf_counter()
    meanwhile()
    elapsed = time.perf_counter() - start
    share = {name: (spent - used[name]) / elapsed for name, spent in processor_seconds(stack).items()}
    last = step_of(client, run)
    parts = client.curves(run, metrics=["seconds/*"], since_step=first + 2, max_points=10_000).curves
    steps: dict[int, float] = defaultdict(float)
    means: dict[str, float] = {}
    for part in parts:
        # Exclude held-out evaluations: they run every few steps, so their number differs between windows.
        if not part.name.startswith("seconds/heldout"):
            whole = [(step, value or 0.0) for step, value in zip(part.steps, part.values, strict=True) if step <= last]
            for step, value in whole:
                steps[step] += value
            means[part.name.removeprefix("seconds/")] = sum(value for _, value in whole) / max(1, len(whole))
    return Window([value for _, value in sorted(steps.items())], means, share)


def wait_for_steps(client: Client, run: uuid.UUID, seconds: float) -> None:
    """Wait for `seconds` and until several steps are complete."""
    target = step_of(client, run) + 4
    time.sleep(seconds)
    while step_of(client, run) < target:
        time.sleep(1)


def step_of(client: Client, run: uuid.UUID) -> int:
    """Number of completed optimizer steps."""
    progress = client.run(run).progress
    return progress.step if progress else 0


def processor_seconds(stack: Stack) -> dict[str, float]:
    """CPU seconds used by each process of the service, with its children, and by this process, which sends requests."""
    used = {name: _of_tree(pid) for name, pid in stack.processes.items()}
    return used | {"requests": time.process_time()}


def _of_tree(pid: int) -> float:
    process = psutil.Process(pid)
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


@dataclass
class Connections:
    """A connection pool. A client library would use more CPU time than the requests that it sends."""

    host: str
    port: int
    key: str
    idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)
    """Connections with the time of their last use; the most recent is last."""

    async def get(self, path: str) -> int:
        """Send a GET request, read the complete response and return its status. Raises OSError."""
        reader, writer = self._fresh() or await asyncio.open_connection(self.host, self.port)
        status, length = await self._head(reader, writer, path)
        await reader.readexactly(length)
        self.idle.append((time.monotonic(), reader, writer))
        return status

    def _fresh(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        if self.idle and self.idle[-1][0] > time.monotonic() - IDLE_SECONDS:
            _, reader, writer = self.idle.pop()
            return reader, writer
        for _, _, writer in self.idle:
            writer.close()
        self.idle.clear()
        return None

    async def listen(self, path: str) -> None:
        """Read an endless response. Raises OSError when it ends."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            await self._head(reader, writer, path)
            while await reader.read(65536):
                pass
        finally:
            writer.close()
        raise ConnectionError("The event stream ended before the run")

    async def _head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> tuple[int, int]:
        lines = f"GET {path} HTTP/1.1", f"Host: {self.host}", f"Authorization: Bearer {self.key}", "", ""
        writer.write("\r\n".join(lines).encode())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        except asyncio.IncompleteReadError as error:
            raise ConnectionError("The server closed the connection without a response") from error
        length = head.partition("content-length:")[2].partition("\r\n")[0]
        return int(head.split(" ", 2)[1]), int(length or 0)


async def drive(url: str, key: str, reads: list[Read], training: str, rate: float, seconds: float, load: Load) -> None:
    """Send requests of the mix on schedule while event streams are open."""
    chosen = random.Random(7).choices(reads, [read.weight for read in reads], k=int(rate * seconds))
    address = httpx.URL(url)
    connections = Connections(address.host, address.port or 80, key)
    streams = [asyncio.create_task(connections.listen(f"/runs/{training}/events")) for _ in range(STREAMS)]
    start = time.perf_counter()
    sent = []
    for number, read in enumerate(chosen):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent.append(asyncio.create_task(_request(connections, read, due, load)))
    await asyncio.gather(*sent)
    load.seconds = time.perf_counter() - start
    for stream in streams:
        if stream.done():
            load.errors[f"stream: {stream.exception()!r}"] += 1
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)


async def _request(connections: Connections, read: Read, due: float, load: Load) -> None:
    try:
        async with asyncio.timeout(30):
            status = await connections.get(read.path)
        if status != 200:
            load.errors[f"{read.route}: {status}"] += 1
    except (OSError, EOFError) as error:  # includes TimeoutError
        load.errors[f"{read.route}: {error!r}"] += 1
    load.milliseconds[read.route].append(1000 * (time.perf_counter() - due))


def spread(times: list[float]) -> dict[str, float]:
    """Number, median, 95th and 99th percentile and maximum of milliseconds."""
    ordered = sorted(times)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)

    return {"n": len(ordered), "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": round(ordered[-1], 1)}


def _print_load(load: Load) -> None:
    everything = [one for times in load.milliseconds.values() for one in times]
    print(f"{'milliseconds':28} {'n':>6} {'p50':>8} {'p95':>8} {'p99':>8} {'max':>8}")
    for route, times in [*load.milliseconds.items(), ("all", everything)]:
        print(f"{route:28} " + " ".join(f"{value:>{6 if name == 'n' else 8}}" for name, value in spread(times).items()))
    print(f"{len(everything) / load.seconds:.1f} requests per second, {load.errors.total()} errors {dict(load.errors)}")


def costs(stack: Stack, key: str, reads: list[Read], times: int = 200) -> dict[str, Any]:
    """Milliseconds of CPU time per request for each route, with a computed and with a cached response."""
    modes = {"computed": {"Prefer": "wait=0"}, "cached": {}}  # a request with `wait` is never served from the cache
    columns = [f"{part}, {mode}" for part in ("api", "postgres") for mode in modes]
    figures: dict[str, dict[str, float]] = {}
    print(f"{'CPU milliseconds per request':28} {' '.join(f'{column:>18}' for column in columns)} {'bytes':>8}")
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as client:
        for read in reads:
            row = figures[read.route] = {"bytes": len(client.get(read.path).raise_for_status().content)}
            for mode, headers in modes.items():
                used = processor_seconds(stack)
                for _ in range(times):
                    client.get(read.path, headers=headers)
                spent = {name: 1000 * (now - used[name]) / times for name, now in processor_seconds(stack).items()}
                row |= {f"{part}, {mode}": spent[part] for part in ("api", "postgres")}
            print(f"{read.route:28} {' '.join(f'{row[column]:18.2f}' for column in columns)} {row['bytes']:8}")
    weights = [read.weight for read in reads]
    means = (statistics.fmean((figures[read.route][column] for read in reads), weights) for column in columns)
    print(f"{'weighted mean':28} {' '.join(f'{mean:18.2f}' for mean in means)}")
    return figures


if __name__ == "__main__":
    main()
