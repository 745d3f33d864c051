"""Reproduce Table 2 of the paper on the bundled world: train each system, evaluate it on shapes-bench, compare it.

    python benchmarks/table.py --out DIR [--settings FILE]

Starts the service in DIR/data and uses its API for runs, evaluations, leaderboard, comparisons and figures. Resumes
after an interruption. Writes DIR/table.md, leaderboard.md, leaderboard.png, comparison.png and gallery.html.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from service.api.evaluations.schemas import EvaluationView
from service.api.runs.schemas import RunView
from service.client import Client
from service.contracts.benchmarks.dimensions import PRIMARY
from service.contracts.benchmarks.leaderboard import SHORT
from service.contracts.presets import merge
from service.contracts.status import RESTING, TERMINAL, JobStatus
from service.local.stack import Stack

SETTINGS = Path(__file__).with_suffix(".yaml")
REWARD = "clip_score_2"
"""Reward that is also computed for every image of an evaluation."""


def aligned(client: Client, name: str, spec: Mapping[str, Any]) -> RunView:
    """Create or resume the run with this name and wait until it has succeeded."""
    run = next((client.run(one.id) for one in client.runs() if one.name == name), None)
    if run is None:
        run = client.create_run({**spec, "name": name})
    elif run.status in RESTING - {JobStatus.SUCCEEDED}:
        run = client.resume_run(run.id)
    run = client.wait_for_run(run.id)
    assert run.status is JobStatus.SUCCEEDED, run.error
    print(f"{name}: {run.max_steps} steps, {run.seconds_used:.0f} s", flush=True)
    return run


def judged(client: Client, name: str, spec: Mapping[str, Any]) -> EvaluationView:
    """Create or resume the evaluation with this name and wait until it has succeeded."""
    found = next((client.evaluation(one.id) for one in client.evaluations() if one.name == name), None)
    if found is None:
        found = client.evaluate({**spec, "name": name})
    elif found.status in TERMINAL - {JobStatus.SUCCEEDED}:
        found = client.resume_evaluation(found.id)
    found = client.wait_for_evaluation(found.id)
    assert found.status is JobStatus.SUCCEEDED, found.error
    print(f"{name}: {found.judged} images judged in {found.seconds_used:.0f} s", flush=True)
    return found


def checkpoint_of(client: Client, run: RunView) -> str:
    """The checkpoint after the last step."""
    newest = max((one for one in client.checkpoints(run.id) if one.deleted_at is None), key=lambda one: one.step)
    assert newest.step == run.max_steps
    return str(newest.id)


def percent(value: float | None, signed: bool = False) -> str:
    """A share in percent."""
    return "–" if value is None else f"{100 * value:{'+' if signed else ''}.2f}"


def between(interval: tuple[float, float] | None, signed: bool = False) -> str:
    """An interval in percent."""
    return "–" if interval is None else f"{percent(interval[0], signed)} to {percent(interval[1], signed)}"


def lines(heads: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)]


def table(client: Client, evaluations: Mapping[str, EvaluationView], seconds: Mapping[str, float]) -> str:
    """Scores with 95% intervals over prompts, and the paired differences to the base."""
    (base, *others) = evaluations
    parts = [["row", "Overall", "95%", REWARD, "95%", "training s"]]
    scores, dimensions, differences = [], [], []
    for name, one in evaluations.items():
        assert one.scores is not None
        reward = one.rewards[REWARD]
        spread = reward.interval95 or (float("nan"), float("nan"))
        scores.append(
            [
                *(name, percent(one.scores.overall), between(one.scores.overall_interval95)),
                *(f"{reward.mean:.4f}", f"{spread[0]:.4f} to {spread[1]:.4f}", f"{seconds.get(name, 0):.0f}"),
            ]
        )
        ten = [one.scores.primary[dimension] for dimension in PRIMARY]
        dimensions.append([name, *(f"{percent(of.accuracy)} ({between(of.interval95)})" for of in ten)])
    for name in others:
        found = client.compare_evaluations(evaluations[base].id, evaluations[name].id)
        assert found.scores is not None
        overall, reward = found.scores.overall, found.rewards[REWARD]
        won = f"{overall.wins} / {overall.losses} / {overall.ties}"
        gained = percent(overall.difference, True), between(overall.interval95, True)
        differences.append([name, *gained, won, f"{reward.difference:+.4f}"])
    heads = ["minus the base", "Overall", "95%, paired", "prompts won / lost / tied", REWARD]
    return "\n".join(
        [
            *lines(parts[0], scores),
            "",
            *lines(["row", *(SHORT[dimension] for dimension in PRIMARY)], dimensions),
            "",
            *lines(heads, differences),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the service and the results")
    parser.add_argument("--settings", type=Path, default=SETTINGS, help="settings file")
    options = parser.parse_args()
    settings = yaml.safe_load(options.settings.read_text(encoding="utf-8"))
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    evaluations: dict[str, EvaluationView] = {}
    seconds: dict[str, float] = {}
    with Stack(out / "data", port=0, report=print) as stack, Client(stack.url) as client:
        for name, own in settings["rows"].items():
            spec = dict(settings["evaluation"])
            if own:
                run = aligned(client, name, merge(settings["run"], own))
                spec["checkpoint"], seconds[name] = checkpoint_of(client, run), run.seconds_used
            evaluations[name] = judged(client, name, spec)
        (out / "table.md").write_text(table(client, evaluations, seconds), encoding="utf-8")
        benchmark = settings["evaluation"]["benchmark"]
        (out / "leaderboard.md").write_bytes(client.leaderboard_as("text/markdown", benchmark))
        (out / "leaderboard.png").write_bytes(client.leaderboard_as("image/png", benchmark))
        first, *others = (one.id for one in evaluations.values())
        (out / "comparison.png").write_bytes(client.gallery(first, beside=others, count=10, seed=1, images=1))
        (out / "gallery.html").write_bytes(client.gallery(first, "html", beside=others, count=30, seed=1))
        results = {name: one.model_dump(mode="json") for name, one in evaluations.items()}
        (out / "evaluations.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print((out / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
