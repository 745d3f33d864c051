"""The table of results, the survivors, and the mutants that only the old suite kills."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mutation.mutants import PACKAGES, Mutant
from tests.mutation.runner import KILLED

EQUIVALENT = Path(__file__).with_name("equivalent.toml")
MOST_EQUIVALENT, LEAST_KILLED = 0.10, 0.85
_KEY = ("file", "function", "text", "becomes")
"""The key of a mutant in `equivalent.toml`, which does not change with the lines above the mutant."""
Results = dict[str, dict[str, Any]]


def equivalents(mutants: list[Mutant], file: Path = EQUIVALENT) -> dict[str, str]:
    """Ids of equivalent mutants, with the reasons."""
    entries = tomllib.loads(file.read_text(encoding="utf-8")).get("mutant", [])
    reasons = {tuple(e[name] for name in _KEY): e["reason"] for e in entries}
    found = {mutant.id: reasons.get(tuple(getattr(mutant, name) for name in _KEY)) for mutant in mutants}
    return {name: reason for name, reason in found.items() if reason is not None}


def report(mutants: list[Mutant], suites: dict[str, Results], reasons: dict[str, str]) -> tuple[str, bool]:
    """Return the report in Markdown and whether the last of the `suites` passes."""
    lines = [
        "| package | mutants | equivalent | suite | killed | survived | killed in % |",
        "|---|--:|--:|---|--:|--:|--:|",
    ]
    good = True
    *_, new_suite = suites
    for package in PACKAGES:
        of_package = [mutant for mutant in mutants if mutant.package == package]
        if not of_package:
            continue
        counted = [mutant.id for mutant in of_package if mutant.id not in reasons]
        left_out = len(of_package) - len(counted)
        good &= left_out <= MOST_EQUIVALENT * len(of_package)
        for name, results in suites.items():
            killed = sum(_killed(results, mutant) for mutant in counted)
            run = sum(mutant in results for mutant in counted)
            share = killed / run if run else 0.0
            good &= name != new_suite or (run == len(counted) and share >= LEAST_KILLED)
            missing = f" ({len(counted) - run} not run)" if run < len(counted) else ""
            row = (package, len(of_package), left_out, name, killed, f"{run - killed}{missing}", f"{100 * share:.1f}")
            lines.append("| " + " | ".join(map(str, row)) + " |")
    for name, results in suites.items():
        lines += [
            "",
            f"Survivors of {name}:",
            *_listed(mutants, [i for i in results if not _killed(results, i)], results),
        ]
    lines += ["", "Equivalent:", *_listed(mutants, list(reasons), {})]
    for name, results in suites.items():
        if name == new_suite:
            continue
        lost = [
            i for i in results if _killed(results, i) and i in suites[new_suite] and not _killed(suites[new_suite], i)
        ]
        lines += ["", f"Killed by {name}, not by {new_suite}: {len(lost)}", *_listed(mutants, lost, suites[new_suite])]
        good &= not lost
    return "\n".join(lines) + "\n", good


def _killed(results: Results, mutant: str) -> bool:
    return mutant in results and results[mutant]["outcome"] in KILLED


def _listed(mutants: list[Mutant], ids: list[str], results: Results) -> Iterator[str]:
    for mutant in mutants:
        if mutant.id in ids:
            result = results.get(mutant.id, {})
            capped = f"; {result['left_out']} more tests not run" if result.get("left_out") else ""
            change = " → ".join(f"`{' '.join(text.split())}`" for text in (mutant.before, mutant.after))
            tests = f" ({result['tests']} tests{capped})" if result else ""
            yield f"- {mutant.id} {mutant.file}:{mutant.line} {mutant.function}: {change}{tests}"
