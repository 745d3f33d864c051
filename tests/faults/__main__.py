"""`python -m tests.faults --seed 42 --kills 120`: the long campaign. Exit status 1 if anything is wrong."""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.faults.campaign import run_campaign
from tests.faults.kinds import KINDS


def main() -> int:
    """Run a campaign, print the report, and keep the files of a failed campaign."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--kills", type=int, default=120, help="processes to kill before the faults end")
    parser.add_argument("--minutes", type=float, default=40.0, help="maximum minutes of faults")
    parser.add_argument("--at-once", type=int, default=4, help="users at work at a time")
    parser.add_argument("--only", action="append", default=[], choices=sorted(KINDS), help="this kind of fault alone")
    parser.add_argument("--keep", action="store_true", help="keep the files of a campaign without findings too")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="g2rpo-faults-")).resolve()
    sys.stderr.write(f"all files are in {directory}\n")
    result = run_campaign(
        directory,
        options.seed,
        options.kills,
        most_seconds=60 * options.minutes,
        at_once=options.at_once,
        kinds=options.only,
        say=lambda line: sys.stderr.write(line + "\n"),
    )
    (directory / "result.json").write_text(json.dumps(asdict(result), default=str, indent=1), encoding="utf-8")
    sys.stdout.write(result.report())
    if not result.wrong and not options.keep:
        shutil.rmtree(directory)
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
