"""A real browser on a served application, and rows for the pages to show."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect, sync_playwright

from service.app import create_app
from service.contracts.status import JobStatus
from service.db import events
from service.db.models import Run, Sample
from service.db.models.run import LogChunk
from service.db.session import Database
from tests.service.records import Records

PROMPTS = ("a red circle", "a large green square")


@dataclass(frozen=True)
class Site:
    """A served application with runs in several states."""

    url: str
    database: Database
    records: Records
    running: Run
    finished: Run

    def open(self, page: Page, route: str) -> Page:
        """Open a route of the dashboard and wait until its content is shown."""
        page.goto(f"{self.url}/#/{route}")
        expect(page.locator("#main > *").first).to_be_visible()
        expect(page.locator(".state[role=status]")).to_have_count(0)
        return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium: `CHROMIUM`, or the executable on the path."""
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("needs the browser Chromium: apt-get install chromium, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a new browser context. The test fails if the page logs an error or violates its security policy."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(20_000)
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if _is_problem(message) else None)
    yield opened
    context.close()
    assert not problems


def _is_problem(message: Any) -> bool:
    # Chromium logs every response with an error status, also those that a test provokes.
    return message.type in ("error", "warning") and "Failed to load resource" not in message.text


@pytest.fixture(scope="module")
def site(
    module_database: Database, module_records: Records, serve: Callable[..., AbstractContextManager[str]]
) -> Iterator[Site]:
    """The application on the module's database, with a running and a finished run."""
    running, finished = (add_run(module_database, module_records, status) for status in ("running", "succeeded"))
    with serve(create_app(module_database.settings)) as url:
        yield Site(url, module_database, module_records, running, finished)


def add_run(database: Database, records: Records, status: str, study: str = "one") -> Run:
    """Store a run with metrics, reward groups, samples, a checkpoint, events and a log."""
    run = records.run(JobStatus(status), name=f"a {status} run", labels={"study": study})
    records.attempts(run, 1)
    for name, values in {
        "heldout/clip_score": [0.5 + 0.01 * step for step in range(11)],
        "reward/clip_score": [0.4 + 0.02 * (step % 3) for step in range(11)],
        "grad_norm": [1.0 / (1 + step) for step in range(11)],
        "seconds/rollout": [2.0 + step % 2 for step in range(11)],
        "seconds/update": [1.0 + step % 2 for step in range(11)],
        "elapsed/nfe": [100.0 * step for step in range(11)],
        "elapsed/seconds": [3.0 * step for step in range(11)],
    }.items():
        records.metric(run, name, values)
    for sde_step in (1, 2):
        for granularity in (1, 2):
            values = [0.1 * sde_step, 0.2 * granularity, 0.3]
            records.reward_group(run, values, step=10, sde_step=sde_step, granularity=granularity)
    for step in (0, 10):
        for index, prompt in enumerate(PROMPTS):
            _add_sample(database, records, run, step=step, kind="heldout", index=index, prompt=prompt)
    for kind in ("best", "worst"):
        group = {"step": 10, "sde_step": 1, "granularity": 2}
        _add_sample(database, records, run, kind=kind, index=0, prompt=PROMPTS[0], **group)
    for g in range(3):
        group = {"step": 10, "sde_step": 2, "granularity": 2}
        _add_sample(database, records, run, kind="group", index=9 + g, prompt=PROMPTS[0], **group)
    records.checkpoint(run, {"pytorch_lora_weights.safetensors": b"weights"}, step=10)
    with database.transaction() as session:
        session.add(LogChunk(run_id=run.id, attempt=1, offset=0, data=b"step 10 of 45\n"))
        events.record(session, Run, run.id, 1, "status", {"status": status})
    return run


def _add_sample(database: Database, records: Records, run: Run, **columns: Any) -> None:
    file = records.directory / "sample.png"
    file.write_bytes(picture(columns["step"], columns["index"]))
    stored = database.artifacts.put_file(
        file, f"runs/{run.id}/samples/{columns['step']}-{columns['kind']}-{columns['index']}.png"
    )
    rewards = {"clip_score": 0.5 + 0.01 * columns["step"]}
    row = Sample(
        run_id=run.id, attempt=1, rewards=rewards, key=stored.key, sha256=stored.sha256, size=stored.size, **columns
    )
    with database.transaction() as session:
        session.add(row)


def picture(step: int, index: int) -> bytes:
    """Return a PNG of a shape that depends on the step and index."""
    image = Image.new("RGB", (32, 32), "white")
    draw = ImageDraw.Draw(image)
    box = (4, 4, 12 + step, 12 + step)
    draw.ellipse(box, fill="red") if index % 2 == 0 else draw.rectangle(box, fill="green")
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
