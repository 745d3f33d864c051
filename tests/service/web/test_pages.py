"""Every page of the dashboard, in a real browser: content, states, accessibility, themes and security policy."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from axe_playwright_python.sync_playwright import Axe
from fastapi.testclient import TestClient
from playwright.sync_api import Page, Route, expect

from service.app import create_app
from tests.service.web.conftest import Site

ROUTES = {
    "runs": "Runs",
    "run/{run}": "a running run",
    "run/{run}?tab=Samples": "a running run",
    "run/{run}?tab=Groups&step=10": "a running run",
    "run/{run}?tab=Checkpoints": "a running run",
    "run/{run}?tab=Events": "a running run",
    "run/{run}?tab=Log": "a running run",
    "run/{run}?tab=Spec": "a running run",
    "new": "New run",
    "compare?run={run}": "Compare runs",
    "generate": "Generate images",
    "evaluations": "Evaluations",
    "leaderboard": "Leaderboard",
    "system": "System",
    "system?tab=Prompt+sets": "System",
    "system?tab=API+keys": "System",
    "system?tab=Catalog": "System",
    "login": "Log in",
}


@pytest.mark.parametrize(("route", "heading"), ROUTES.items())
def test_page_has_no_accessibility_violation_in_either_theme(site: Site, page: Page, route: str, heading: str) -> None:
    site.open(page, route.format(run=site.running.id))
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    axe = Axe()
    for theme in ("light", "dark"):
        page.get_by_label("Theme").select_option(theme)
        violations = axe.run(page).response["violations"]
        assert not [
            (row["id"], row["nodes"][0]["html"]) for row in violations if row["impact"] in ("serious", "critical")
        ]


@pytest.mark.parametrize("route", ROUTES)
def test_page_fits_the_width_of_a_phone(site: Site, page: Page, route: str) -> None:
    page.set_viewport_size({"width": 375, "height": 800})
    site.open(page, route.format(run=site.running.id))
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_root_answers_html_to_a_browser_and_json_to_a_program(module_client: TestClient) -> None:
    html = module_client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert html.headers["content-type"].startswith("text/html")
    assert module_client.get("/").json()["service"] == "g2rpo"
    assert module_client.get("/", headers={"Accept": "application/json"}).json()["runs"] == "/runs"


@pytest.mark.parametrize("path", ["/", "/assets/app.js", "/assets/d3.js", "/assets/pages/runs.js"])
def test_pages_have_a_strict_security_policy(module_client: TestClient, path: str) -> None:
    response = module_client.get(path, headers={"Accept": "text/html"})
    assert response.status_code == 200
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == "'self'" and policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'" and policy["img-src"] == "'self' blob:"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_only_static_files_are_public(module_client: TestClient) -> None:
    for path in ("/assets/../pages.py", "/assets/%2e%2e/pages.py", "/assets/missing.js", "/assets/"):
        assert module_client.get(path).status_code in (401, 404)


def test_all_pages_work_with_the_keyboard_only(site: Site, page: Page) -> None:
    site.open(page, "runs")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("navigation").get_by_role("link", name="New run")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("New run")
    site.open(page, f"run/{site.finished.id}")
    page.get_by_role("tab", name="Curves").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Samples")).to_have_attribute("aria-selected", "true")


def test_errors_name_the_cause(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/#/run/01a204c3-f0ca-74ae-8fde-44fae912a6da")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("01a204c3-f0ca-74ae-8fde-44fae912a6da")
    expect(alert.get_by_role("button", name="Retry")).to_be_visible()


def test_pages_continue_after_the_service_was_unreachable(site: Site, page: Page) -> None:
    site.open(page, "runs")
    page.context.set_offline(True)
    page.get_by_label("Algorithm").fill("g2rpo")
    page.get_by_label("Algorithm").press("Enter")
    expect(page.locator("#banner")).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    expect(page.locator("#banner")).to_be_empty()
    expect(page.get_by_role("link", name="a running run")).to_be_visible()


def test_two_api_processes_serve_one_page(
    site: Site, page: Page, serve: Callable[..., AbstractContextManager[str]]
) -> None:
    with serve(create_app(site.database.settings)) as second:
        requests = itertools.count()

        def alternate(route: Route) -> None:
            odd = next(requests) % 2
            route.continue_(url=route.request.url.replace(site.url, second) if odd else None)

        page.route("**/*", alternate)
        site.open(page, f"run/{site.running.id}?tab=Samples")
        expect(page.get_by_role("img", name="a red circle, step 10")).to_have_js_property("naturalWidth", 32)
        assert next(requests) > 10
