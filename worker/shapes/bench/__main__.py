"""Write the benchmark's data file, which is part of the service: `python -m worker.shapes.bench --out FILE`."""

import argparse
from pathlib import Path

from worker.shapes.bench.benchmark import benchmark


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.shapes.bench", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="service/contracts/benchmarks/shapes_bench.json")
    path: Path = parser.parse_args().out
    path.write_text(benchmark().model_dump_json(indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
