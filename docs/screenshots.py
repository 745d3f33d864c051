"""Take the screenshots in docs/images/dashboard from a running service: `python docs/screenshots.py [URL]`.

The service should have at least two finished runs and an evaluation. Needs Chromium and the development packages.
"""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from service.client import Client

OUT = Path(__file__).parent / "images" / "dashboard"
ROUTES = {
    "runs": "runs",
    "new-run": "new",
    "curves": "run/{run}",
    "samples": "run/{run}?tab=Samples",
    "groups": "run/{run}?tab=Groups&step={step}",
    "compare": "compare?run={run}&run={other}",
    "generate": "generate/{generation}",
    "evaluation": "evaluation/{evaluation}",
    "leaderboard": "leaderboard",
    "system": "system",
}
PHONE = ("runs", "curves", "samples")


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    with Client(url) as client:
        runs = [run for run in client.runs() if run.status == "succeeded"]
        ids = {"run": runs[0].id, "other": runs[-1].id, "step": runs[0].max_steps}
        ids["generation"] = next(iter(client.generations())).id
        ids["evaluation"] = next(iter(client.evaluations())).id
    OUT.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for name, route in ROUTES.items():
            take(browser, f"{url}/#/{route.format(**ids)}", f"{name}.png", width=1440, theme="light")
        for name in PHONE:
            take(browser, f"{url}/#/{ROUTES[name].format(**ids)}", f"{name}-phone.png", width=375, theme="dark")
        browser.close()


def take(browser: Browser, url: str, file: str, width: int, theme: str) -> None:
    """Save a screenshot of the first screen of a page."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(4000)
    page.screenshot(path=OUT / file)
    context.close()


if __name__ == "__main__":
    main()
