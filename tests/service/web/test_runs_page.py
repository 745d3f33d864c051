"""The list of runs and the page of a run: filters, selection, live updates, actions, curves, samples and groups."""

import re

import pytest
from playwright.sync_api import Page, expect

from service.contracts.status import JobStatus
from service.db import events
from service.db.models import Run
from service.db.session import Database
from tests.service.records import Records
from tests.service.web.conftest import PROMPTS, Site, add_run


def set_progress(database: Database, run: Run, step: int) -> None:
    """Store progress and notify streams, as a worker does."""
    with database.transaction() as session:
        row = session.get_one(Run, run.id)
        row.progress = {
            "type": "progress",
            "time": "2026-12-01T12:00:00Z",
            "step": step,
            "max_steps": 45,
            "phase": "rollout",
            "eta_seconds": 60.0,
            "step_seconds": 2.0,
        }
        events.notify_job(session, row.KIND, row.id)


def test_runs_are_filtered_searched_and_selected(site: Site, page: Page) -> None:
    site.open(page, "runs?label=study:one")
    cards = page.locator("li.run")
    expect(cards).to_have_count(2)
    page.get_by_label("Search").fill("finished")
    expect(page.get_by_text("No run matches the filters.")).to_be_visible()
    page.get_by_label("Search").fill("running")
    expect(cards).to_have_count(1)
    page.get_by_label("Search").fill("")
    page.get_by_label("Status").select_option("succeeded")
    expect(cards).to_have_count(1)
    page.reload()
    expect(cards).to_have_count(1)  # the filter is part of the URL
    page.get_by_label("Status").select_option("")
    expect(cards).to_have_count(2)
    for box in page.get_by_role("checkbox").all():
        box.check()
    page.get_by_role("link", name="Compare 2 runs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Compare runs")
    expect(page.get_by_role("button", name="a running run ✕")).to_be_visible()


def test_list_shows_the_sparkline_of_the_heldout_reward(site: Site, page: Page) -> None:
    site.open(page, "runs")
    expect(page.get_by_role("img", name="Held-out reward from 0.5 to 0.6").first).to_be_visible()


def test_list_is_updated_while_a_run_is_active(site: Site, page: Page) -> None:
    page.clock.install()
    site.open(page, "runs")
    set_progress(site.database, site.running, 31)
    page.clock.run_for(16_000)
    expect(page.get_by_text("31 / 45").first).to_be_visible()


def test_progress_arrives_over_the_event_stream(site: Site, page: Page) -> None:
    site.open(page, f"run/{site.running.id}")
    set_progress(site.database, site.running, 17)
    expect(page.get_by_text("17 / 45")).to_be_visible()
    set_progress(site.database, site.running, 18)
    expect(page.get_by_text("18 / 45")).to_be_visible()


def test_curves_have_titles_units_and_a_selectable_x_axis(site: Site, page: Page) -> None:
    site.open(page, f"run/{site.finished.id}")
    titles = page.locator("figure.chart figcaption")
    expect(titles.first).to_have_text("Held-out CLIP score")
    assert "Seconds of a step by part" in titles.all_inner_texts()
    chart = page.get_by_role("img", name=re.compile("^Held-out CLIP score"))
    expect(chart).to_have_attribute("aria-label", re.compile("0.6 after 10 optimizer steps"))
    page.get_by_label("x axis").select_option("nfe")
    expect(chart).to_have_attribute("aria-label", re.compile("0.6 after 1,000 NFE"))
    page.get_by_label("x axis").select_option("seconds")
    expect(chart).to_have_attribute("aria-label", re.compile("0.6 after 30 training seconds"))
    page.get_by_label("Logarithmic y axis").check()
    page.get_by_label("All metrics").check()
    expect(page.locator("figure.chart figcaption", has_text="Elapsed: NFE")).to_be_visible()
    page.reload()
    expect(page.get_by_label("x axis")).to_have_value("seconds")  # the view is a permalink


def test_chart_shows_values_on_hover_and_zooms(site: Site, page: Page) -> None:
    site.open(page, f"run/{site.finished.id}")
    chart = page.locator("figure.chart").first
    overlay = chart.locator(".brush .overlay")
    box = overlay.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 20)
    expect(chart.locator(".tooltip")).to_contain_text("10 optimizer steps")
    page.mouse.move(box["x"] + 10, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20, steps=3)
    page.mouse.up()
    chart.get_by_role("button", name="Reset zoom").click()
    expect(chart.get_by_role("button", name="Reset zoom")).to_have_count(0)


@pytest.mark.parametrize(("kind", "start"), [("PNG", b"\x89PNG"), ("SVG", b"<?xml"), ("CSV", b"name,kind,metric")])
def test_curves_are_exported(site: Site, page: Page, kind: str, start: bytes) -> None:
    site.open(page, f"run/{site.finished.id}")
    with page.expect_download() as download:
        page.get_by_role("button", name=kind, exact=True).click()
    assert download.value.path().read_bytes().startswith(start)
    assert download.value.suggested_filename == f"curves.{kind.lower()}"


def test_sample_wall_moves_through_the_steps(site: Site, page: Page) -> None:
    site.open(page, f"run/{site.finished.id}?tab=Samples")
    image = page.get_by_role("img", name=f"{PROMPTS[0]}, step 10")
    expect(image).to_have_js_property("naturalWidth", 32)
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    page.get_by_role("slider", name="Optimizer step").fill("0")
    expect(page.get_by_role("img", name=f"{PROMPTS[0]}, step 0")).to_have_js_property("naturalWidth", 32)
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_role("img", name=f"{PROMPTS[0]}, step 10")).to_be_visible()
    expect(page.get_by_text("worst: clip_score 0.6")).to_be_visible()
    page.get_by_role("img", name=f"{PROMPTS[0]}, step 10").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("clip_score")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_group_explorer_shows_rewards_by_sde_step_and_granularity(site: Site, page: Page) -> None:
    site.open(page, f"run/{site.finished.id}?tab=Groups&step=10")
    expect(page.get_by_text("4 groups; 0 (0.0%) have zero spread.")).to_be_visible()
    page.locator(".heat").get_by_role("row", name=re.compile("^2")).get_by_role("button").nth(1).click()
    expect(page.get_by_role("heading", name="SDE step 2, granularity 2")).to_be_visible()
    best = page.get_by_role("img", name="Image 1 of the group, clip_score 0.4")
    expect(best).to_have_js_property("naturalWidth", 32)
    expect(page.locator(".wall figcaption").first).to_have_text("clip_score 0.4advantage +1")
    page.locator(".heat").get_by_role("row", name=re.compile("^1")).get_by_role("button").first.click()
    expect(page.get_by_text("Images of groups are stored at held-out evaluations")).to_be_visible()


def test_checkpoint_is_downloaded(site: Site, page: Page) -> None:
    site.open(page, f"run/{site.finished.id}?tab=Checkpoints")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert b"pytorch_lora_weights.safetensors" in download.value.path().read_bytes()


def test_log_events_and_spec_are_shown(site: Site, page: Page) -> None:
    site.open(page, f"run/{site.finished.id}?tab=Log")
    expect(page.get_by_text("step 10 of 45")).to_be_visible()
    page.get_by_role("tab", name="Events").click()
    expect(page.get_by_role("cell", name="worker:1")).to_be_visible()
    page.get_by_role("tab", name="Spec").click()
    expect(page.get_by_text('"preset": "shapes"')).to_be_visible()


def test_run_is_paused_and_cancelled_with_confirmation(site: Site, page: Page) -> None:
    run = add_run(site.database, site.records, "running", study="two")
    site.open(page, f"run/{run.id}")
    page.get_by_role("button", name="Save checkpoint").click()
    expect(page.get_by_text("The checkpoint is saved after the current step.")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("h1 + .badge")).to_have_text("pausing")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Back").click()
    expect(page.locator("h1 + .badge")).to_have_text("pausing")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    expect(page.locator("h1 + .badge")).to_have_text("cancelling")


def test_finished_run_is_deleted_with_confirmation(site: Site, page: Page, module_records: Records) -> None:
    run = module_records.run(JobStatus.FAILED, spec={"name": "to delete"})
    site.open(page, f"run/{run.id}")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")
    with site.database.sessions() as session:
        assert session.get(Run, run.id) is None
