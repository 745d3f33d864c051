"""The computations of the comparison: curves, steps within a budget, and finished runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.convergence.analysis import (
    largest_drop,
    pairs_interval,
    roughness,
    seeds_interval,
    smooth,
    time_to,
    value_at,
)
from benchmarks.convergence.comparison import Curve, Method, at_equal, times_to_target
from benchmarks.convergence.images import flat_pixels, texture
from benchmarks.convergence.plan import Run, StepSeconds, load_settings, planned_runs, rhythm
from benchmarks.convergence.report import put
from benchmarks.convergence.runs import curve, keep_request, newest_checkpoint, outcome
from service.contracts.runs import RunSpec
from worker.shapes.caption_sampling import heldout_prompts
from worker.shapes.grammar import parse
from worker.shapes.render import render


def test_smoothing_is_over_the_last_three_values_and_over_fewer_at_the_beginning() -> None:
    assert smooth([3.0, 1.0, 2.0, 6.0]) == pytest.approx([3.0, 2.0, 2.0, 3.0])


def test_target_crossing_is_interpolated() -> None:
    assert time_to(1.5, [0.0, 10.0, 20.0], [1.0, 2.0, 3.0]) == pytest.approx(5.0)
    assert time_to(0.5, [0.0, 10.0], [1.0, 2.0]) == 0.0
    assert time_to(2.0, [0.0, 10.0], [1.0, 2.0]) == 10.0
    assert time_to(2.1, [0.0, 10.0], [1.0, 2.0]) is None


def test_first_of_several_crossings_counts() -> None:
    assert time_to(2.0, [0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 1.0, 3.0]) == pytest.approx(0.5)


def test_curve_has_no_value_after_its_end() -> None:
    assert value_at(5.0, [0.0, 10.0], [1.0, 2.0]) == pytest.approx(1.5)
    assert value_at(10.1, [0.0, 10.0], [1.0, 2.0]) == pytest.approx(2.0)  # half a step
    assert value_at(11.0, [0.0, 10.0], [1.0, 2.0]) is None


def test_roughness_is_the_noise_around_a_line() -> None:
    line = np.linspace(0.0, 1.0, 4000)
    noise = np.random.default_rng(0).normal(0.0, 0.05, len(line))
    assert roughness(line) == pytest.approx(0.0, abs=1e-12)
    assert roughness(line + noise) == pytest.approx(0.05, rel=0.05)


def test_largest_drop_is_measured_from_the_running_maximum() -> None:
    assert largest_drop([1.0, 3.0, 2.0, 5.0, 4.5]) == pytest.approx(1.0)
    assert largest_drop([1.0, 2.0, 3.0]) == 0.0


def test_intervals_contain_the_mean_and_widen_with_the_spread_of_seeds() -> None:
    pairs = np.random.default_rng(0).normal(0.1, 1.0, 400)
    agree, disagree = np.stack([pairs] * 3), np.stack([pairs - 0.5, pairs, pairs + 0.5])
    low, high = pairs_interval(agree)
    assert low < pairs.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * pairs.std() / 20, rel=0.1)
    assert pairs_interval(disagree) == pytest.approx((low, high))
    wide = seeds_interval(disagree)
    assert wide[1] - wide[0] > 1.5 * (high - low)


def method(name: str, step_seconds: float, *totals: list[float]) -> Method:
    """A method with one reward, evaluated at every step of `step_seconds` and 100 NFE; a curve for each seed."""
    axis = np.arange(len(totals[0]), dtype=np.float64)
    curves = [
        Curve(seed, step_seconds * axis, 100 * axis, {"clip_score": np.array(values)}, pairs=1, engine_seconds=0.0)
        for seed, values in enumerate(totals)
    ]
    return Method(name, name, 1e-3, True, tuple(curves))


def test_target_is_the_best_smoothed_value_per_seed_and_of_the_mean() -> None:
    slow = method("dance_grpo", 4.0, [0.0, 3.0, 6.0, 3.0], [0.0, 0.0, 0.0, 3.0])
    fast = method("g2rpo", 1.0, [0.0, 6.0, 6.0, 6.0], [0.0, 0.0, 0.0, 0.0])
    reached = times_to_target(fast, slow)
    assert [one.target for one in reached] == [4.0, 1.0, 2.5]
    assert [one.seconds for one in reached] == [pytest.approx(2.0), None, pytest.approx(2.5)]
    assert reached[0].nfe == pytest.approx(200.0)
    assert [one.seconds for one in times_to_target(slow, slow)] == [12.0, 12.0, 12.0]


def test_methods_are_compared_at_the_smallest_common_budget() -> None:
    values = at_equal([method("dance_grpo", 4.0, [0.0, 3.0, 3.0]), method("g2rpo", 1.0, [0.0, 4.0, 8.0, 6.0])])
    assert values["dance_grpo"] == {"seconds": [pytest.approx(1.125)], "nfe": [pytest.approx(2.0)]}
    assert values["g2rpo"] == {"seconds": [pytest.approx(6.0)], "nfe": [pytest.approx(4.0)]}


def test_moving_window_is_charged_per_position() -> None:
    seconds = StepSeconds((4.0, 2.0), every=2)
    assert [seconds.of_first(steps) for steps in range(6)] == [0.0, 4.0, 8.0, 10.0, 12.0, 16.0]
    assert seconds.steps_within(11.5) == 4
    assert StepSeconds((5.0,)).steps_within(1.0) == 1


def test_steps_of_each_method_fit_the_same_budget() -> None:
    assert rhythm(StepSeconds((4.0,)), budget=180.0, points=12) == (45, 4)
    assert rhythm(StepSeconds((90.0,)), budget=180.0, points=12) == (2, 1)


def test_shipped_comparison_has_valid_specs_that_differ_only_in_the_algorithm() -> None:
    settings = load_settings()
    methods = settings["methods"]
    seconds = {method: StepSeconds((4.0,)) for method in methods}
    runs = planned_runs(settings, "run", seconds, {method: [1e-3] for method in methods})
    assert len({run.name for run in runs}) == len(runs) == len(methods) * len(settings["run"]["seeds"])
    specs = [RunSpec.model_validate(run.spec) for run in runs if run.seed == settings["run"]["seeds"][0]]
    assert len({spec.model_dump_json(exclude={"algorithm"}) for spec in specs}) == 1
    assert len({spec.algorithm.model_dump_json() for spec in specs}) == len(methods)
    assert not set(settings["tune"]["seeds"]) & set(settings["run"]["seeds"])


def write_attempt(directory: Path, number: int, events: list[dict[str, object]], cut: str = "") -> Path:
    attempt = directory / f"attempt-{number:03d}"
    attempt.mkdir(parents=True)
    (attempt / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + cut)
    return attempt


def evaluation(step: int, value: float) -> dict[str, object]:
    values = {"heldout/clip_score": value, "elapsed/seconds": 2.0 * step, "elapsed/nfe": 10.0 * step}
    return {"type": "metrics", "step": step, "values": values}


def test_run_resumes_from_its_newest_complete_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for number, step, whole in ((1, 4, True), (2, 8, True), (3, 12, False)):
        checkpoint = tmp_path / f"attempt-{number:03d}" / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        if whole:
            (checkpoint / "manifest.json").touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "attempt-002" / "checkpoints" / "step-000008"


def test_interrupted_attempt_is_not_a_result_and_the_next_extends_its_curve(tmp_path: Path) -> None:
    write_attempt(tmp_path, 1, [evaluation(0, 0.5), evaluation(4, 0.6), evaluation(8, 0.1)], cut='{"type": "fini')
    assert outcome(tmp_path) is None
    write_attempt(tmp_path, 2, [evaluation(8, 0.7), {"type": "finished", "outcome": "succeeded"}])
    assert outcome(tmp_path) == "succeeded"
    assert [(point.step, point.rewards["clip_score"]) for point in curve(tmp_path)] == [(0, 0.5), (4, 0.6), (8, 0.7)]


@pytest.mark.parametrize(("code", "result"), [("not_finite", "not_finite"), ("out_of_memory", None)])
def test_failed_method_is_a_result_but_a_failed_machine_is_not(tmp_path: Path, code: str, result: str | None) -> None:
    write_attempt(tmp_path, 1, [{"type": "failed", "code": code}])
    assert outcome(tmp_path) == result


def test_directory_with_runs_of_another_spec_is_rejected(tmp_path: Path) -> None:
    keep_request(Run("g2rpo", 1e-3, 1, {"model": "shapes-flux"}), tmp_path)
    keep_request(Run("g2rpo", 1e-3, 1, {"model": "shapes-flux"}), tmp_path)
    with pytest.raises(ValueError, match="another spec"):
        keep_request(Run("g2rpo", 1e-3, 1, {"model": "other"}), tmp_path)


def test_renders_are_without_texture_and_noise_on_them_is_measured() -> None:
    renders = render([parse(text) for text in heldout_prompts()[:16]])
    noisy = renders + 0.02 * torch.randn(renders.shape, generator=torch.Generator().manual_seed(0))
    assert texture(renders).amax() < 1e-10
    # White noise of variance s² has a squared Laplacian of (1 + 1 + 1 + 1 + 16)·s².
    assert texture(noisy).mean().item() == pytest.approx(20 * 0.02**2, rel=0.1)


def test_flat_pixels_keep_away_from_edges() -> None:
    image = torch.ones(1, 3, 32, 32)
    image[:, :, :, 16:] = 0.0
    flat = flat_pixels(image)[0]
    columns = [x for x in range(32) if flat[:, x].any()]
    assert columns == [*range(2, 14), *range(18, 30)]


def test_table_replaces_only_its_section() -> None:
    text = "a\n<!-- grid -->\nold\n<!-- end -->\nb\n<!-- times -->\nkept\n<!-- end -->\n"
    assert put(text, "grid", "new") == text.replace("old", "new")
    with pytest.raises(ValueError, match="gains"):
        put(text, "gains", "new")
