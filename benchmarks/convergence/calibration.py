"""Calm seconds per step: the time of a few steps of each method on an otherwise idle machine, with one thread."""

import json
import os
import shutil
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.convergence.plan import StepSeconds, calibration_run, step_seconds, window_places
from benchmarks.convergence.runs import execute, say, training_metrics

SECONDS_FILE = "seconds.json"


def calibrate(settings: dict[str, Any], out: Path) -> bool:
    """Measure every method and write the medians; return whether every run finished."""
    measured = {}
    for method in settings["methods"]:
        run, directory = calibration_run(settings, method), out / "calibrate" / method
        shutil.rmtree(directory, ignore_errors=True)
        load = os.getloadavg()[0]
        if not execute(run, directory):
            return False
        metrics = training_metrics(directory)
        elapsed = [metrics[step]["elapsed/seconds"] for step in sorted(metrics)]
        readings = [later - earlier for earlier, later in pairwise(elapsed)]
        places = window_places(run.spec)
        # readings[0] belongs to step 1, at the second position of a window.
        by_place = [median(readings[(place - 1) % places :: places]) for place in range(places)]
        parts = {
            key.removeprefix("seconds/"): median(values[key] for step, values in metrics.items() if step > 1)
            for key in metrics[2]
            if key.startswith("seconds/")
        }
        measured[method] = {"by_place": by_place, "readings": readings, "parts": parts, "load_before": load}
        say(f"{method}: {', '.join(f'{seconds:.2f}' for seconds in by_place)} s per step (load before: {load:.2f})")
    (out / SECONDS_FILE).write_text(json.dumps(measured, indent=1), encoding="utf-8")
    return True


def load_seconds(settings: dict[str, Any], out: Path) -> dict[str, StepSeconds]:
    """Load the measurements of `calibrate`. Raises FileNotFoundError if it has not run."""
    measured = json.loads((out / SECONDS_FILE).read_text(encoding="utf-8"))
    return {method: step_seconds(settings, method, measured[method]["by_place"]) for method in settings["methods"]}
