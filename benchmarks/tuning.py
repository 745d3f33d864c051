"""Compare specs by held-out rewards. Each variant and seed is one standalone run; finished runs are not repeated.

    python benchmarks/tuning.py benchmarks/tuning_shapes.yaml --out DIR --seeds 1 2 3 --jobs 1

A variant has a name and the fields of the run spec that differ from `base` of the file. The table shows held-out
rewards before and after training, the paired difference with its 95% interval, and seconds.
"""

import argparse
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from service.contracts.presets import merge


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", type=Path, help="YAML file with the variants")
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42], help="training seeds")
    parser.add_argument("--jobs", type=int, default=1, help="number of concurrent runs")
    options = parser.parse_args()
    file = yaml.safe_load(options.variants.read_text(encoding="utf-8"))
    runs = [
        (name, seed, merge(file["base"], changes or {}))
        for seed in options.seeds
        for name, changes in file["variants"].items()
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda run: execute(options.out, *run), runs))
    print_table([result for result in results if result])
    return 0 if all(results) else 1


def execute(out: Path, name: str, seed: int, spec: dict[str, Any]) -> dict[str, Any] | None:
    """Run one variant unless it has a result; return None if it failed."""
    directory = out / f"{name}-seed{seed}"
    if not (result := read_result(directory)):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        training = {**spec.get("training", {}), "seed": seed, "sampler_seed": seed}
        request = directory / "request.json"
        request.write_text(json.dumps({**spec, "training": training}), encoding="utf-8")
        with (directory / "log.txt").open("w") as log:
            command = [sys.executable, "-m", "worker.entrypoints.train", str(request), "--out", str(directory)]
            subprocess.run(command, stdout=log, stderr=log, check=False)
        result = read_result(directory)
    return result and {"name": name, "seed": seed, **result}


def read_result(directory: Path) -> dict[str, Any] | None:
    """Read the held-out summary, curve and seconds of a finished run; None if it is not finished."""
    path = directory / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not events or events[-1]["type"] != "finished":
        return None
    metrics = [event for event in events if event["type"] == "metrics"]
    seconds: dict[str, float] = {}
    for event in metrics:
        for key, value in event["values"].items():
            if key.startswith("seconds/"):
                seconds[key.removeprefix("seconds/")] = seconds.get(key.removeprefix("seconds/"), 0.0) + value
    curve = {
        name: [event["values"][name] for event in metrics if name in event["values"]]
        for name in sorted({key for event in metrics for key in event["values"] if key.startswith("heldout/")})
    }
    return {"heldout": events[-1]["heldout"], "seconds": seconds, "curve": curve}


def print_table(results: list[dict[str, Any]]) -> None:
    for result in results:
        parts = [f"{result['name']:28} seed {result['seed']:<4}"]
        for name, row in result["heldout"].items():
            low, high = row["interval95"]
            parts.append(
                f"{name} {row['before']:.4f} → {row['after']:.4f} ({row['difference']:+.4f}, {low:+.4f}..{high:+.4f})"
            )
        parts.append(f"{sum(result['seconds'].values()):.0f} s")
        print(" | ".join(parts))


if __name__ == "__main__":
    sys.exit(main())
