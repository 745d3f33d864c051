"""The report of the algorithm comparison: tables in docs/explanation/algorithm-comparison.md, and figures."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.convergence.analysis import Floats, pairs_interval, seeds_interval
from benchmarks.convergence.calibration import SECONDS_FILE
from benchmarks.convergence.choice import best_rates, grid
from benchmarks.convergence.comparison import TARGET, Method, at_equal, load_methods, stability, the, times_to_target
from benchmarks.convergence.figures import draw_curves
from benchmarks.convergence.images import RENDERS, Drawn, draw_sheet, read
from benchmarks.convergence.plan import BASE, Run

AGREEMENT = 1e-3
"""Maximum difference of a mean when its images are generated again with other batch sizes."""

Rows = Iterable[Sequence[str]]


def write_report(settings: dict[str, Any], out: Path, docs: Path) -> None:
    """Write the figures, and the tables into docs/explanation/algorithm-comparison.md; print the tables."""
    methods = load_methods(settings, out)
    tables = {
        "steps": steps_table(settings, out, methods),
        "grid": grid_table(settings, out),
        "gains": gains_table(methods, out),
        "times": times_table(methods),
        "equal": equal_table(methods),
        "stability": stability_table(methods),
        "texture": texture_table(methods, out),
    }
    page = docs / "explanation" / "algorithm-comparison.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        print(f"\n{name}\n{table}")
        text = put(text, name, table)
    page.write_text(text, encoding="utf-8")
    draw_curves(methods, docs / "images" / "convergence_curves.png")
    draw_sheet(settings, out, settings["run"]["seeds"][0], docs / "images" / "convergence_images.png")


def put(text: str, name: str, table: str) -> str:
    """Replace the table between the markers of `name` in `text`. Raises ValueError if there are no markers."""
    block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not block.search(text):
        raise ValueError(f"The page has no markers for table {name!r}; add <!-- {name} --> and <!-- end -->")
    return block.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text)


def steps_table(settings: dict[str, Any], out: Path, methods: Sequence[Method]) -> str:
    """Cost of a step and the distribution of its calm seconds."""
    measured = json.loads((out / SECONDS_FILE).read_text(encoding="utf-8"))
    rows = []
    for method in methods:
        parts, steps = measured[method.name]["parts"], json.loads((out / "run.json").read_text())
        run = steps[Run(method.name, method.rate, method.curves[0].seed, {}).name]
        rollout = sum(parts.get(part, 0.0) for part in ("anchor", "branch", "continuation"))
        judging = parts["decode"] + parts["reward"]
        every = np.mean(measured[method.name]["by_place"])
        count = run["training"]["max_steps"]
        rows.append(
            (
                method.label,
                f"{method.curves[0].nfe[-1] / count:.0f}",
                f"{every:.2f}",
                f"{rollout:.2f} / {judging:.2f} / {parts['update']:.2f}",
                f"{method.rate:g}",
                f"{count}",
                f"{method.seconds[-1]:.0f}",
                f"{method.curves[0].nfe[-1]:,.0f}",
                ", ".join(f"{curve.engine_seconds:.0f}" for curve in method.curves),
            )
        )
    head = (
        "method",
        "NFE per step",
        "calm s per step",
        "of which rollout / decoding and rewards / update",
        "rate",
        "steps",
        "total calm s",
        "total NFE",
        "the engine's seconds, by seed",
    )
    return markdown(head, rows)


def grid_table(settings: dict[str, Any], out: Path) -> str:
    """Smoothed end value of every tuning run, with the best in bold."""
    tried, chosen = grid(out), best_rates(settings, out)
    rates = settings["tune"]["rates"]
    rows = []
    for method, entry in settings["methods"].items():
        own = {one.rate: one for one in tried if one.method == method}
        cells = [f"{own[rate].end - own[rate].start:+.4f}" for rate in rates]
        rows.append(
            (
                entry["label"],
                str(next(iter(own.values())).steps),
                *(f"**{cell}**" if rate == chosen[method] else cell for rate, cell in zip(rates, cells, strict=True)),
            )
        )
    return markdown(("method", "steps", *(f"{rate:g}" for rate in rates)), rows)


def gains_table(methods: Sequence[Method], out: Path) -> str:
    """Held-out values of the final policies and their differences from the base model."""
    base = read(out, BASE).values
    rows = [
        (
            "base",
            *(f"{cell}" for values in (*base.values(), total(base)) for cell in (f"{np.mean(values):.4f}", "", "")),
        )
    ]
    for method in methods:
        drawn = [one.values for one in drawn_of(method, out)]
        cells: list[str] = []
        for name in base:
            after = np.stack([values[name] for values in drawn])
            cells += [f"{after.mean():.4f}", *difference(after - base[name])]
        after = np.stack([total(values) for values in drawn])
        rows.append((method.label, *cells, f"{after.mean():.4f}", *difference(after - total(base))))
    names = [*(f"`{name}`" for name in base), "their sum"]
    head = [cell for name in names for cell in (name, "from base, 95% over pairs", "95% over seeds and pairs")]
    return markdown(("method", *head), rows)


def total(values: dict[str, Floats]) -> Floats:
    """Sum of rewards for each pair."""
    return np.sum(list(values.values()), axis=0)


def difference(differences: Floats) -> tuple[str, str]:
    """Mean of `differences` [seeds, pairs] with its interval over pairs, and its interval over seeds and pairs."""
    return f"{differences.mean():+.4f} ({span(pairs_interval(differences))})", span(seeds_interval(differences))


def times_table(methods: Sequence[Method]) -> str:
    """Best value of each method, and its cost to reach the best value of DanceGRPO."""
    target = the(TARGET, methods)
    own = times_to_target(target, target)
    rows = []
    for method in methods:
        bests = [*(curve.smoothed.max() for curve in method.curves), method.stack(None).mean(axis=0).max()]
        for best, reached, reference in zip(bests, times_to_target(method, target), own, strict=True):
            seed = "mean of seeds" if reached.seed is None else str(reached.seed)
            if reached.seconds is None or reached.nfe is None or not reference.seconds:
                spent = ("not reached", "–", "not reached")
            else:
                share = reached.seconds / reference.seconds
                spent = (f"{reached.seconds:.0f}", f"{share:.2f}", f"{reached.nfe:,.0f}")
            rows.append((method.label, seed, f"{best:.4f}", f"{reached.target:.4f}", *spent))
    return markdown(("method", "seed", "best", "target", "calm s", "share of DanceGRPO's s", "NFE"), rows)


def equal_table(methods: Sequence[Method]) -> str:
    """Smoothed sums at equal cost."""
    values = at_equal(methods)
    seconds = min(method.seconds[-1] for method in methods)
    nfe = min(method.curves[0].nfe[-1] for method in methods)
    rows = [(method.label, *(cell(values[method.name][axis]) for axis in ("seconds", "nfe"))) for method in methods]
    return markdown(("method", f"at {seconds:.0f} calm s", f"at {nfe:,.0f} NFE"), rows)


def cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.4f} ({', '.join(f'{value:.4f}' for value in known)})"


def stability_table(methods: Sequence[Method]) -> str:
    rows = [(method.label, *(f"{value:.4f}" for value in stability(method))) for method in methods]
    return markdown(("method", "roughness", "largest drop, mean of seeds", "largest drop, worst seed"), rows)


def texture_table(methods: Sequence[Method], out: Path) -> str:
    """Texture of flat areas, and its paired differences between methods."""
    floor, base = read(out, RENDERS).texture, read(out, BASE).texture
    full = np.stack([one.texture for one in drawn_of(the("g2rpo", methods), out)])
    scale = 1e4
    rows = [("renders after the autoencoder", f"{scale * np.nanmean(floor):.2f}", "1.00", "", "")]
    rows.append(("base", f"{scale * np.nanmean(base):.2f}", f"{np.nanmean(base) / np.nanmean(floor):.2f}", "", ""))
    for method in methods:
        own = np.stack([one.texture for one in drawn_of(method, out)])
        rows.append(
            (
                method.label,
                f"{scale * np.nanmean(own):.2f}",
                f"{np.nanmean(own) / np.nanmean(floor):.2f}",
                texture_difference(own - base, scale),
                texture_difference(own - full, scale) if method.name != "g2rpo" else "",
            )
        )
    head = ("images", "mean squared Laplacian × 10⁴", "relative to renders", "from base", "from G²RPO")
    return markdown(head, rows)


def texture_difference(differences: Floats, scale: float) -> str:
    """Mean difference over the pairs whose images all have flat pixels."""
    whole = scale * differences[:, np.isfinite(differences).all(axis=0)]
    return f"{whole.mean():+.2f} ({span(seeds_interval(whole), 2)})"


def drawn_of(method: Method, out: Path) -> list[Drawn]:
    """Load the final images of a method for each seed.

    Raises ValueError if their values differ from those that the run reported.
    """
    drawn = []
    for curve in method.curves:
        name = Run(method.name, method.rate, curve.seed, {}).name
        one = read(out, name)
        for reward, reported in curve.rewards.items():
            again = np.nanmean(one.values[reward][: curve.pairs])
            if abs(again - reported[-1]) > AGREEMENT:
                raise ValueError(f"{name}: {reward} is {again:.4f}, but the run reported {reported[-1]:.4f}")
        drawn.append(one)
    return drawn


def span(interval: tuple[float, float], digits: int = 4) -> str:
    return f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}"


def markdown(head: Sequence[str], rows: Rows) -> str:
    """Format a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
