"""Compare the systems of the paper on the bundled world: base, DanceGRPO, MixGRPO, G²RPO w/o MGAI, G²RPO.

    python -m benchmarks.convergence calibrate --out DIR     # calm seconds per step: nothing else may run
    python -m benchmarks.convergence tune --out DIR          # one grid of learning rates for every method
    python -m benchmarks.convergence run --out DIR           # every method at its best rate, to an equal budget
    python -m benchmarks.convergence draw --out DIR          # images and values of the final policies and the base
    python -m benchmarks.convergence report --out DIR --docs docs

Each phase resumes after an interruption and does not repeat finished runs. Runs are standalone engine processes with
one thread each, `--jobs` at a time. `settings.yaml` contains the settings; the results are in
docs/explanation/algorithm-comparison.md.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.convergence.calibration import calibrate, load_seconds
from benchmarks.convergence.choice import best_rates
from benchmarks.convergence.plan import SETTINGS, load_settings, planned_runs
from benchmarks.convergence.runs import execute_all


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convergence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("phase", choices=("calibrate", "tune", "run", "draw", "report"))
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs and results")
    parser.add_argument("--settings", type=Path, default=SETTINGS, help="settings file")
    parser.add_argument("--jobs", type=int, default=2, help="number of concurrent runs (tune, run)")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="docs directory to update (report)")
    options = parser.parse_args()
    settings = load_settings(options.settings)
    options.out.mkdir(parents=True, exist_ok=True)
    match options.phase:
        case "calibrate":
            return 0 if calibrate(settings, options.out) else 1
        case "tune":
            rates = dict.fromkeys(settings["methods"], settings["tune"]["rates"])
            return 0 if train(settings, "tune", rates, options) else 1
        case "run":
            also = settings["run"].get("also", {})
            rates = {
                method: list(dict.fromkeys([rate, *also.get(method, [])]))
                for method, rate in best_rates(settings, options.out).items()
            }
            return 0 if train(settings, "run", rates, options) else 1
        case "draw":
            from benchmarks.convergence.images import draw_all  # imports torch, which other phases do not need

            draw_all(settings, options.out)
        case "report":
            from benchmarks.convergence.report import write_report

            write_report(settings, options.out, options.docs)
    return 0


def train(settings: dict[str, Any], phase: str, rates: dict[str, list[float]], options: argparse.Namespace) -> bool:
    """Execute all runs of a phase; return whether each has a result."""
    runs = planned_runs(settings, phase, load_seconds(settings, options.out), rates)
    (options.out / f"{phase}.json").write_text(json.dumps({run.name: run.spec for run in runs}, indent=1))
    return execute_all(runs, options.out / phase, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
