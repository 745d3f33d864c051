"""Measure the dashboard in a real browser: paint, blocking time, layout shift, requests, and the cost for the API.

    python -m benchmarks.dashboard [--seconds 60] [--json FILE]

Starts the service in a temporary directory with 1,000 runs, one of which has 100,000 metric rows and 5,000 samples. The
browser's cache is empty. Needs Chromium (CHROMIUM, or on the path) and the development packages.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import insert, text

from benchmarks.load import database_of, processor_seconds
from service.client import Client
from service.db.events import notify_job
from service.db.models import Metric, Run, Sample
from service.db.session import Database
from service.local.stack import Stack

RUNS, ROWS, METRICS, SAMPLES = 1000, 100_000, 20, 5000
PAGES = {
    "runs": "runs",
    "run: curves": "run/{run}",
    "run: samples": "run/{run}?tab=Samples",
    "compare": "compare?run={run}&run={other}",
    "new run": "new",
    "leaderboard": "leaderboard",
    "system": "system",
}
OBSERVE = """
window.measured = {blocking: 0, shift: 0, paint: null};
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (window.measured.paint !== null) window.measured.blocking += Math.max(0, entry.duration - 50);
  }
}).observe({type: "longtask", buffered: true});
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.measured.shift += entry.value;
}).observe({type: "layout-shift", buffered: true});
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.name === "first-contentful-paint") window.measured.paint = entry.startTime;
  }
}).observe({type: "paint", buffered: true});
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the measurement of three open pages")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as directory, Stack(Path(directory), port=0) as stack:
        with Client(stack.url) as client:
            run, other = fill(stack, client, Path(directory))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
            pages = {
                name: load_page(browser, f"{stack.url}/#/{route.format(run=run, other=other)}")
                for name, route in PAGES.items()
            }
            live = watch(browser, stack, run, options.seconds)
            browser.close()
    for name, values in pages.items():
        print(
            f"{name:14} first contentful paint {values['paint']:5.0f} ms, total blocking time {values['blocking']:5.0f}"
            f" ms, layout shift {values['shift']:.3f}, {values['requests']} API requests"
        )
    requests, core = live["requests_per_minute"], live["core"]
    print(
        f"three open pages: {requests:.1f} JSON requests per minute and page; API and PostgreSQL {core:.1%} of a core"
    )
    if options.json:
        options.json.write_text(json.dumps({"pages": pages, "live": live}, indent=1))


def fill(stack: Stack, client: Client, directory: Path) -> tuple[uuid.UUID, uuid.UUID]:
    """Store the runs, metrics and samples; return the ids of the run that has them and of another run."""
    first = client.create_run({"preset": "shapes", "name": "large run"})
    client.cancel(first.id)
    image = directory / "image.png"
    Image.effect_noise((32, 32), 50).save(image)
    with database_of(stack) as database, database.transaction() as session:
        run = session.get_one(Run, first.id)
        columns = {column.key: getattr(run, column.key) for column in Run.__table__.columns}
        copies = [columns | {"id": uuid.uuid4(), "name": f"run {number}"} for number in range(RUNS - 1)]
        session.execute(insert(Run), copies)
        metrics = [
            {
                "run_id": run.id,
                "attempt": 1,
                "name": f"{group}/{number}",
                "step": step,
                "value": step * 7919 % 1000 / 1000,
            }
            for group, count in (("heldout", 2), ("reward", METRICS - 2))
            for number in range(count)
            for step in range(ROWS // METRICS)
        ]
        session.execute(insert(Metric), metrics)
        stored = database.artifacts.put_file(image, f"runs/{run.id}/samples/0.png")
        shown = {"run_id": run.id, "attempt": 1, "kind": "heldout", "rewards": {"clip_score": 0.7}}
        file = {"key": stored.key, "sha256": stored.sha256, "size": stored.size}
        session.execute(
            insert(Sample),
            [
                {
                    **shown,
                    **file,
                    "id": uuid.uuid4(),
                    "step": number // 8,
                    "index": number % 8,
                    "prompt": f"prompt {number % 8}",
                }
                for number in range(SAMPLES)
            ],
        )
        session.execute(text("ANALYZE"))
    return first.id, copies[0]["id"]


def load_page(browser: Browser, url: str) -> dict[str, Any]:
    """Load a page with an empty cache; return its times in milliseconds and the number of API requests."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_init_script(OBSERVE)
    page = context.new_page()
    requests = _count_requests(page)
    page.goto(url)
    page.wait_for_timeout(6000)  # total blocking time covers the time until the page has been quiet for 5 s
    measured: dict[str, Any] = page.evaluate("window.measured")
    context.close()
    return {**measured, "requests": len(requests)}


def _count_requests(page: Page) -> list[str]:
    """Collect the paths of API requests, without static files, images and event streams."""
    found: list[str] = []
    static = ("/assets/", "/image", "/events")
    page.on(
        "request",
        lambda request: found.append(request.url) if not any(part in request.url for part in static) else None,
    )
    return found


def watch(browser: Browser, stack: Stack, run: uuid.UUID, seconds: float) -> dict[str, float]:
    """Keep three pages of a run open; return JSON requests per minute and page, and the share of a core they cost."""
    with database_of(stack) as database:
        return _watch(browser, stack, database, run, seconds)


def _watch(browser: Browser, stack: Stack, database: Database, run: uuid.UUID, seconds: float) -> dict[str, float]:
    lease = "lease_owner = 'benchmark', lease_expires_at = now() + interval '1 hour'"
    with database.transaction() as session:
        session.execute(
            text(f"UPDATE runs SET status = 'running', ended_at = NULL, {lease} WHERE id = :id"), {"id": run}
        )
    context = browser.new_context()
    pages = [context.new_page() for _ in range(3)]
    for page in pages:
        page.goto(f"{stack.url}/#/run/{run}")
        page.wait_for_timeout(4000)
    requests = [_count_requests(page) for page in pages]
    before = _api_and_database(stack)
    for step in range(int(seconds / 2)):
        _report_progress(database, run, step)
        pages[0].wait_for_timeout(2000)
    cost = _api_and_database(stack) - before
    context.close()
    return {"requests_per_minute": sum(map(len, requests)) / 3 / (seconds / 60), "core": cost / seconds}


def _api_and_database(stack: Stack) -> float:
    used = processor_seconds(stack)
    return sum(seconds for name, seconds in used.items() if name in ("api", "postgres"))


def _report_progress(database: Database, run: uuid.UUID, step: int) -> None:
    progress = {"type": "progress", "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "step": step}
    progress |= {"max_steps": 1000, "phase": "rollout", "eta_seconds": 60.0, "step_seconds": 2.0}
    with database.transaction() as session:
        session.get_one(Run, run).progress = progress
        notify_job(session, Run.KIND, run)


if __name__ == "__main__":
    main()
